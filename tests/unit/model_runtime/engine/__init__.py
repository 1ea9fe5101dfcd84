"""Unit tests of engines: ONNX Runtime, its providers, and custom engines."""
