"""The Open Inference Protocol over gRPC, on a port of its own (`JITNEY_GRPC_PORT`). It needs the extra `grpc`."""
