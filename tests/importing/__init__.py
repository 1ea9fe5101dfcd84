"""Imported networks: the files that result, and whether their answers equal the original's."""
