"""The `jitney` command line: one module or package for each verb."""
