"""Graph transformations of `jitney models optimize`."""
