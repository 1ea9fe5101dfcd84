"""Readers of bulk inputs: files, archives, tables, URLs and object stores."""
