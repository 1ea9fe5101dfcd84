"""`jitney bench`: measures a running service, and ONNX Runtime alone on the same model."""
