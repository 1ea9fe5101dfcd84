"""`jitney models load MODEL [VERSION]`."""

from collections.abc import Sequence

from scripts.models.client import change, parser


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code."""
    does = "Load a version of the folder, or load it anew; it takes no jobs by that, unless nothing else does"
    arguments = parser("load", does)
    arguments.add_argument("model")
    arguments.add_argument("version", nargs="?", help="left out: the one that takes the jobs, or all that was unloaded")
    given = arguments.parse_args(argv)
    return change("load", given, version=given.version)
