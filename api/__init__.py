"""HTTP in, HTTP out: takes jobs, and gives every caller their own answer.

Knows what a job is (`jobs`) and nothing of models, arrays or batches: it needs no numpy, Pillow or ONNX Runtime.
"""
