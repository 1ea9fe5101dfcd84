"""Model code that needs a process of its own: memory, image costs, CPUs, drivers."""
