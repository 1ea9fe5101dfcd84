"""Unit tests of the gateway: parsing, encoding, limits and waiting."""
