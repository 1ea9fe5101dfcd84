"""What is counted and measured, kept in Redis."""
