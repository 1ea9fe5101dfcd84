"""`jitney bulk`: from a folder, an archive or a table to a results file, through a service or in this process."""

from cli.bulk.command import main

__all__ = ["main"]
