"""`jitney models VERB`: what is served and what becomes of each version. Each verb has a module with main(argv)."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

# verb → (module with main(argv) -> exit code, what it does)
VERBS: Final = {
    "list": ("scripts.models.listing", "every version: how it stands, and its share of the jobs"),
    "load": ("scripts.models.load", "load a version, or load it anew"),
    "unload": ("scripts.models.unload", "let a version go once its lines are empty, or the whole model"),
    "share": ("scripts.models.share", "give a version a share of the jobs, as canary"),
    "promote": ("scripts.models.promote", "let a version take all jobs"),
    "rollback": ("scripts.models.rollback", "end the canary, or give the jobs back to the version before"),
    "follow": ("scripts.models.follow", "let the folder decide again"),
}
EX_USAGE: Final = 64


def main(argv: Sequence[str]) -> int:
    """Run a verb; returns its exit code."""
    if argv and argv[0] in VERBS:
        code: int = importlib.import_module(VERBS[argv[0]][0]).main(argv[1:])
        return code
    asked_for_help = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not asked_for_help:
        print(f"jitney models: there is no verb {argv[0][:80]!r}; there are:", file=sys.stderr)
    lines = ["usage: jitney models VERB ..., and `jitney models VERB --help` tells more", ""]
    lines += [f"  {verb:10} {does}" for verb, (_, does) in VERBS.items()]
    print("\n".join(lines), file=sys.stdout if asked_for_help else sys.stderr)
    return 0 if asked_for_help else EX_USAGE
