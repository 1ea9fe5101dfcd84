"""Who calls, what that caller may do, and how often."""
