"""`jitney models doctor`: diagnoses and fixes ONNX files that cannot be batched."""
