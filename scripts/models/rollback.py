"""`jitney models rollback MODEL`."""

from collections.abc import Sequence

from scripts.models.client import change, parser


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code."""
    arguments = parser("rollback", "End the canary or, without one, give the jobs back to the version before")
    arguments.add_argument("model")
    return change("rollback", arguments.parse_args(argv))
