"""The verbs of `jitney models` that ask a gateway: list, load, unload, share, promote, rollback, follow."""

import json
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

from cli.models.admin.client import (
    GatewayCallError,
    build_parser,
    call_gateway,
    change_model,
    format_versions,
    print_error,
)


def main(argv: Sequence[str]) -> int:
    """Run the verb that argv begins with; returns the exit code."""
    return _VERBS[argv[0]](argv[1:])


def _list(argv: Sequence[str]) -> int:
    arguments = build_parser("list", "List every version: how it stands, and its share of the jobs")
    arguments.add_argument("model", nargs="?", help="of this model alone")
    arguments.add_argument("--json", action="store_true", help="as /v1/models shows it")
    given = arguments.parse_args(argv)
    try:
        path = f"/v1/models/{quote(given.model, safe='')}" if given.model else "/v1/models"
        shown = call_gateway(given.url, path)
    except GatewayCallError as error:
        return print_error(error)
    print(json.dumps(shown, indent=1) if given.json else format_versions(shown.get("versions") or shown.get("models")))
    return 0


def _load(argv: Sequence[str]) -> int:
    does = "Load a version of the folder, or load it anew; it takes no jobs by that, unless nothing else does"
    arguments = build_parser("load", does)
    arguments.add_argument("model")
    arguments.add_argument("version", nargs="?", help="left out: the one that takes the jobs, or all that was unloaded")
    given = arguments.parse_args(argv)
    return change_model("load", given, version=given.version)


def _unload(argv: Sequence[str]) -> int:
    arguments = build_parser("unload", "Let a version go once its lines are empty; jobs that were taken are run")
    arguments.add_argument("model")
    arguments.add_argument("version", nargs="?", help="left out: the whole model, which then takes no jobs any more")
    given = arguments.parse_args(argv)
    return change_model("unload", given, version=given.version)


def _share(argv: Sequence[str]) -> int:
    arguments = build_parser(
        "share", "Give a version so many of a hundred jobs, as canary beside the one that takes them"
    )
    arguments.add_argument("model")
    arguments.add_argument("version")
    arguments.add_argument("percent", type=int, help="0 to 100")
    given = arguments.parse_args(argv)
    return change_model("share", given, version=given.version, percent=given.percent)


def _promote(argv: Sequence[str]) -> int:
    arguments = build_parser("promote", "Let a version take all jobs; the one that did stays loaded, as the way back")
    arguments.add_argument("model")
    arguments.add_argument("version", nargs="?", help="left out: the canary")
    given = arguments.parse_args(argv)
    return change_model("promote", given, version=given.version)


def _rollback(argv: Sequence[str]) -> int:
    arguments = build_parser("rollback", "End the canary or, without one, give the jobs back to the version before")
    arguments.add_argument("model")
    return change_model("rollback", arguments.parse_args(argv))


def _follow(argv: Sequence[str]) -> int:
    does = "Let the folder decide again: its highest version, or what model.toml pins"
    arguments = build_parser("follow", does)
    arguments.add_argument("model")
    return change_model("follow", arguments.parse_args(argv))


_VERBS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "list": _list,
    "load": _load,
    "unload": _unload,
    "share": _share,
    "promote": _promote,
    "rollback": _rollback,
    "follow": _follow,
}
