"""The command `jitney`: each verb in a module or package of its own."""
