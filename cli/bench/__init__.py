"""`jitney bench`: what a user can measure against a running service, beside ONNX Runtime alone on the same model."""

from cli.bench.command import main

__all__ = ["main"]
