"""What is done to the graph of a version."""
