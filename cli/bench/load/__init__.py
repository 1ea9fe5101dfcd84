"""The load that a measurement puts on a service."""
