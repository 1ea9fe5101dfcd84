"""Which models and versions are served, by whom, and which one a job gets."""
