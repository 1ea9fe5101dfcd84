"""Unit tests of the models directory: versions, digests, checks of paths."""
