"""The verbs of `jitney models` that list and change versions through a gateway."""
