"""ONNX graphs, custom engines and photographs, made on the spot."""
