"""The error of `jitney bench`."""


class CannotMeasure(Exception):
    """Nothing can be measured, or no request succeeded. The message is for the terminal."""
