"""`jitney models list|load|unload|share|promote|rollback|follow`: parses the options and calls a gateway."""

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
    """Run the verb in argv[0] and return its exit code."""
    return _VERBS[argv[0]](argv[1:])


def _list(argv: Sequence[str]) -> int:
    parser = build_parser("list", "List versions with their status and share of the jobs")
    parser.add_argument("model", nargs="?", help="show only this model")
    parser.add_argument("--json", action="store_true", help="print the JSON of /v1/models")
    args = parser.parse_args(argv)
    try:
        path = f"/v1/models/{quote(args.model, safe='')}" if args.model else "/v1/models"
        response = call_gateway(args.url, path)
    except GatewayCallError as error:
        return print_error(error)
    print(
        json.dumps(response, indent=1)
        if args.json
        else format_versions(response.get("versions") or response.get("models"))
    )
    return 0


def _load(argv: Sequence[str]) -> int:
    description = "Load or reload a version; it receives jobs only if no other version does"
    parser = build_parser("load", description)
    parser.add_argument("model")
    parser.add_argument("version", nargs="?", help="default: the version with the jobs, or all unloaded ones")
    args = parser.parse_args(argv)
    return change_model("load", args, version=args.version)


def _unload(argv: Sequence[str]) -> int:
    parser = build_parser("unload", "Unload a version once its queues are empty; accepted jobs are still run")
    parser.add_argument("model")
    parser.add_argument("version", nargs="?", help="default: the whole model, which then accepts no jobs")
    args = parser.parse_args(argv)
    return change_model("unload", args, version=args.version)


def _share(argv: Sequence[str]) -> int:
    parser = build_parser("share", "Send a percentage of the jobs to a version, as canary")
    parser.add_argument("model")
    parser.add_argument("version")
    parser.add_argument("percent", type=int, help="0 to 100")
    args = parser.parse_args(argv)
    return change_model("share", args, version=args.version, percent=args.percent)


def _promote(argv: Sequence[str]) -> int:
    parser = build_parser("promote", "Send all jobs to a version; the previous one stays loaded for a rollback")
    parser.add_argument("model")
    parser.add_argument("version", nargs="?", help="default: the canary")
    args = parser.parse_args(argv)
    return change_model("promote", args, version=args.version)


def _rollback(argv: Sequence[str]) -> int:
    parser = build_parser("rollback", "End the canary or, without one, return to the previous version")
    parser.add_argument("model")
    return change_model("rollback", parser.parse_args(argv))


def _follow(argv: Sequence[str]) -> int:
    description = "Serve what the folder selects: its highest version, or the one that model.toml pins"
    parser = build_parser("follow", description)
    parser.add_argument("model")
    return change_model("follow", parser.parse_args(argv))


_VERBS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "list": _list,
    "load": _load,
    "unload": _unload,
    "share": _share,
    "promote": _promote,
    "rollback": _rollback,
    "follow": _follow,
}
