"""Unit tests of micro-batching, with a clock that is an argument."""
