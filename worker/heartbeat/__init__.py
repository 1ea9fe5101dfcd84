"""Says that this worker lives, and keeps what it holds."""
