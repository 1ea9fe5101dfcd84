"""What a model is measured for when it is loaded: latency by batch size, and whether batching changes its answers."""
