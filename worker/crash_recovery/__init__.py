"""What a worker holds is noted beside it, and given back to the queue when it dies."""
