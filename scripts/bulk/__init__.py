"""`jitney bulk`: from a folder, an archive or a table to a results file, through a service or in this process."""

from scripts.bulk.command import main

__all__ = ["main"]
