"""`jitney bulk`: runs a folder, an archive or a table through a service or locally, into a results file."""
