"""Run models with ONNX Runtime and its execution providers, or with a custom engine."""
