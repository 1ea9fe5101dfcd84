"""Analyse ONNX graphs: which operators mix rows (doctor and workers), and how to free a fixed batch size.

The analysis follows the batch axis through the graph, operator by operator. The doctor also runs the model at two batch
sizes. It needs the `onnx` package.
"""
