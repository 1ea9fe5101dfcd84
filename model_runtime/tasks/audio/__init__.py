"""The tasks for audio."""
