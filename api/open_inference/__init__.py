"""The Open Inference Protocol v2 (KServe, Triton): what its HTTP and gRPC forms share."""
