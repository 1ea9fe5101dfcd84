"""`jitney bench`: measures a running service, and ONNX Runtime alone on the same model."""

from cli.bench.command import main

__all__ = ["main"]
