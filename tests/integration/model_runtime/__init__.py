"""Model code that needs a process of its own or measures: memory, image costs, batch caps, CPUs, drivers."""
