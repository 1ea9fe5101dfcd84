"""`jitney models share MODEL VERSION PERCENT`."""

from collections.abc import Sequence

from scripts.models.client import change, parser


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code."""
    arguments = parser("share", "Give a version so many of a hundred jobs, as canary beside the one that takes them")
    arguments.add_argument("model")
    arguments.add_argument("version")
    arguments.add_argument("percent", type=int, help="0 to 100")
    given = arguments.parse_args(argv)
    return change("share", given, version=given.version, percent=given.percent)
