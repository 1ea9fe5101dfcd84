"""The load generator of `jitney bench` against stub services."""
