"""Unit tests, by package: no other process, no socket."""
