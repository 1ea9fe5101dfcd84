"""Settings: reading them from the environment, and comparing them between processes."""
