"""Soaks, benchmarks, stress and fuzzing: `make long` lists them."""
