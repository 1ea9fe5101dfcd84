"""Process supervision behind `jitney up`, `jitney api` and `jitney worker`."""
