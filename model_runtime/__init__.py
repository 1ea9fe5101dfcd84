"""Models: found on disk, described by `model.toml`, opened in ONNX Runtime, spoken to through a task.

Nothing here knows of jobs in Redis, of batches or of event loops: bytes in, arrays through the model, JSON out.
"""
