"""`jitney bench`: what a user can measure against a running service, beside ONNX Runtime alone on the same model."""

from scripts.bench.command import main

__all__ = ["main"]
