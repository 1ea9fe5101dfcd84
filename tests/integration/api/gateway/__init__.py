"""What a gateway does beside requests: maintenance, memory watermark, durability warnings."""
