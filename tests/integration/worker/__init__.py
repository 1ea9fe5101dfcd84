"""Parts of a worker that need a process or a queue server."""
