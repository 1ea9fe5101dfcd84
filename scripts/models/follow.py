"""`jitney models follow MODEL`."""

from collections.abc import Sequence

from scripts.models.client import change, parser


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code."""
    does = "Let the folder decide again: its highest version, or what model.toml pins"
    arguments = parser("follow", does)
    arguments.add_argument("model")
    return change("follow", arguments.parse_args(argv))
