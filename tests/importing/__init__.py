"""Networks from elsewhere: what becomes of them on disk, and whether they answer as where they came from."""
