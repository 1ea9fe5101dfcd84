"""Decoding of audio files to samples."""
