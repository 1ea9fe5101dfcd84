"""Which versions of models this worker has loaded, and which it should."""
