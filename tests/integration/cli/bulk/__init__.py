"""Inputs and the results journal of `jitney bulk`."""
