"""Unit tests of decoding audio: formats, resampling, limits, damaged and mutated files."""
