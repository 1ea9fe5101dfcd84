"""Models through a whole service: bundled, imported, optimized, custom and broken ones."""
