"""Runs a model: ONNX Runtime and its providers, or an engine of the model's own."""
