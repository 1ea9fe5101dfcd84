"""A whole Jitney as a user starts it."""
