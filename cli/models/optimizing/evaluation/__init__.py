"""How good and how fast an optimized version is."""
