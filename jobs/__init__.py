"""What a job is and where it is kept: the contract between the gateway (`api`) and the worker (`worker`).

Knows no HTTP framework, no numpy, no ONNX Runtime, and imports nothing else of ours.
"""
