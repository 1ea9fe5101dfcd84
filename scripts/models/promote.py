"""`jitney models promote MODEL [VERSION]`."""

from collections.abc import Sequence

from scripts.models.client import change, parser


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code."""
    arguments = parser("promote", "Let a version take all jobs; the one that did stays loaded, as the way back")
    arguments.add_argument("model")
    arguments.add_argument("version", nargs="?", help="left out: the canary")
    given = arguments.parse_args(argv)
    return change("promote", given, version=given.version)
