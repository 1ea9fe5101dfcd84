"""Find models on disk, read their `model.toml`, and run them: bytes in, arrays through the model, JSON out.

This package does not depend on Redis, on the batcher or on event loops.
"""
