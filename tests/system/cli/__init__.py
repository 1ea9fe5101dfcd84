"""`jitney bench`, several gateways and several workers, as a user starts them."""
