"""The error that the verbs of `jitney models` share; it imports nothing, so that `--help` works without extras."""


class ModelPathNotFound(Exception):
    """PATH contains no model; the message is one line."""
