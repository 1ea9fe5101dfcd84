"""The HTTP gateway: accepts jobs and returns their results.

It depends on `jobs` only. It handles no models, arrays or batches, so it needs no numpy, Pillow or ONNX Runtime.
"""
