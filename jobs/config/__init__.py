"""Settings: how they are read, and whether all processes have the same."""
