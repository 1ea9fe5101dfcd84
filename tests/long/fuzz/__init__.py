"""Fuzzers of the HTTP API and of all parsers."""
