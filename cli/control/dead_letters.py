"""`jitney dead-letters list|replay|purge`: lists, replays and purges dead letters."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cli.control.subcommands import (
    Subcommand,
    add_limit,
    add_time_span,
    build_parser,
    pick,
    read_pages,
    repeat,
    run_verb,
)
from cli.gateway_client import GatewayClient, segment
from cli.output import add_json, print_json, print_table

PATH: Final = "/v1/deadletters"
FILTERS: Final = ("model", "code", "since", "until", "tenant")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="name of the model")
    parser.add_argument("--code", help="error code")
    add_time_span(parser, "that ended")
    parser.add_argument("--tenant", help="another tenant, or * for all; needs a key with the role admin")


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    add_limit(parser)
    add_json(parser)


def _list(gateway: GatewayClient, args: argparse.Namespace) -> int:
    letters = list(read_pages(gateway, PATH, _query(args), "deadletters", args.limit))
    if args.json:
        print_json(letters)
        return 0
    names = ("id", "tenant", "model", "version", "finished_at", "input_bytes", "replayed_as")
    rows = [[*pick(letter, *names), letter["error"]["code"]] for letter in letters]
    print_table(["id", "tenant", "model", "version", "ended", "input bytes", "replayed as", "code"], rows)
    return 0


def _query(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in FILTERS}


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", help="id of a dead letter; without it, those that match the filters")
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="all dead letters, in place of a filter")


def _selected(args: argparse.Namespace) -> Mapping[str, Any]:
    return _query(args) | {"all": "true" if args.all else None}


def _replay(gateway: GatewayClient, args: argparse.Namespace) -> int:
    if args.id:
        job = gateway.call("POST", f"{PATH}/{segment(args.id)}/replay")
        print(f"dead letter {args.id} is replayed as job {job['id']}")
        return 0
    query = _selected(args)
    counts = ("replayed", "skipped")
    done = repeat(lambda cursor: gateway.call("POST", f"{PATH}/replay", query={**query, "cursor": cursor}), counts)
    print(f"{done['replayed']} dead letters are replayed; {done['skipped']} were before")
    return 0


def _purge(gateway: GatewayClient, args: argparse.Namespace) -> int:
    if args.id:
        gateway.call("DELETE", f"{PATH}/{segment(args.id)}")
        print(f"dead letter {args.id} is purged")
        return 0
    query = _selected(args)
    done = repeat(lambda cursor: gateway.call("DELETE", PATH, query={**query, "cursor": cursor}), ("purged",))
    print(f"{done['purged']} dead letters are purged")
    return 0


SUBCOMMANDS: Final = {
    "list": Subcommand("list dead letters by filter, newest first", _list, _add_list),
    "replay": Subcommand("replay a dead letter, or those that match a filter", _replay, _add_selection),
    "purge": Subcommand("delete a dead letter and its input, or those that match a filter", _purge, _add_selection),
}


def main(argv: Sequence[str]) -> int:
    parser, _ = build_parser(
        "dead-letters", "List, replay and purge dead letters.", SUBCOMMANDS, "those of other tenants need"
    )
    return run_verb("dead-letters", SUBCOMMANDS, parser.parse_args(argv))
