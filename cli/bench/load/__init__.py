"""Load generation: inputs, connections, submit modes, closed and open loop."""
