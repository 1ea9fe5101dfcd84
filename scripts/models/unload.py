"""`jitney models unload MODEL [VERSION]`."""

from collections.abc import Sequence

from scripts.models.client import change, parser


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code."""
    arguments = parser("unload", "Let a version go once its lines are empty; jobs that were taken are run")
    arguments.add_argument("model")
    arguments.add_argument("version", nargs="?", help="left out: the whole model, which then takes no jobs any more")
    given = arguments.parse_args(argv)
    return change("unload", given, version=given.version)
