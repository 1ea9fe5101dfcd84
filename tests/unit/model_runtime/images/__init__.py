"""Unit tests of decoding images: formats, limits, damaged and mutated files."""
