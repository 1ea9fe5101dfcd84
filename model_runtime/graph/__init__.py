"""`jitney models doctor`: whether an ONNX file can be batched, why not, and a copy that can, where that is sound.

Follows the rows of a batch through the graph, operator by operator. Needs the `onnx` package; runs nothing itself.
"""
