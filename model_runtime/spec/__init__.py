"""Parse and validate `model.toml`, one module per group of sections."""
