"""What a bulk run writes: rows, and how far they are known to be good."""
