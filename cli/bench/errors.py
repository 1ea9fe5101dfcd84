"""The one way a measurement ends before it begins."""


class CannotMeasure(Exception):
    """There is nothing to measure, or nothing came back; the message is for the person at the terminal."""
