"""Tests that need a queue server, or processes of one part; the rest is played by the test."""
