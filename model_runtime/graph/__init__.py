"""Analyse ONNX graphs for `jitney models doctor`: whether a model can be batched, and how to repair it.

The analysis follows the batch axis through the graph, operator by operator, without running the model. It needs the
`onnx` package.
"""
