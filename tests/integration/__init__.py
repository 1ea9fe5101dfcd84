"""Tests that need a queue server, processes of one part, or real networks; the rest is played by the test."""
