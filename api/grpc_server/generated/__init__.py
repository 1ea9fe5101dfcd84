"""The protocol `inference.GRPCInferenceService` and the code that protoc makes of it: `scripts/generate_grpc.py`."""
