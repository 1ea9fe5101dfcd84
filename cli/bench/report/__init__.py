"""What a measurement found, as a table and as a picture."""
