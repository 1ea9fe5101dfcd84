"""`model.toml`, part by part."""
