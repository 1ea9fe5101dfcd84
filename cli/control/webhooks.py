"""`jitney webhooks list|replay|endpoints`: lists deliveries and receivers, replays deliveries."""

import argparse
from collections.abc import Sequence
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

PATH: Final = "/v1/webhooks"
FILTERS: Final = ("job", "endpoint", "state", "since", "until")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", help="id of the job")
    parser.add_argument("--endpoint", help="id of the receiver, as `endpoints` shows it")
    parser.add_argument("--state", choices=("waiting", "delivered", "failed"), help="state of the delivery")
    add_time_span(parser, "created")


def _query(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in FILTERS}


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    add_limit(parser)
    add_json(parser)


def _list(gateway: GatewayClient, args: argparse.Namespace) -> int:
    deliveries = list(read_pages(gateway, PATH, _query(args), "deliveries", args.limit))
    if args.json:
        print_json(deliveries)
        return 0
    names = ("id", "type", "state", "tries", "created_at", "next_attempt_at", "url")
    print_table(names, [pick(each, *names) for each in deliveries])
    return 0


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", help="id of a delivery; without it, those that match the filters")
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="all deliveries, in place of a filter")


def _replay(gateway: GatewayClient, args: argparse.Namespace) -> int:
    if args.id:
        gateway.call("POST", f"{PATH}/{segment(args.id)}/replay")
        print(f"delivery {args.id} is due again")
        return 0
    query = _query(args) | {"all": "true" if args.all else None}
    done = repeat(
        lambda cursor: gateway.call("POST", f"{PATH}/replay", query={**query, "cursor": cursor}), ("replayed",)
    )
    print(f"{done['replayed']} deliveries are due again")
    return 0


def _endpoints(gateway: GatewayClient, args: argparse.Namespace) -> int:
    endpoints = gateway.call("GET", f"{PATH}/endpoints")["endpoints"]
    if args.json:
        print_json(endpoints)
        return 0
    names = ("id", "origin", "waiting", "failures", "failing_since", "paused_until")
    print_table(names, [pick(each, *names) for each in endpoints])
    return 0


SUBCOMMANDS: Final = {
    "list": Subcommand("list deliveries by filter, newest first", _list, _add_list),
    "replay": Subcommand("replay a delivery, or those that match a filter", _replay, _add_replay),
    "endpoints": Subcommand("list receivers and their health", _endpoints, add_json),
}


def main(argv: Sequence[str]) -> int:
    parser, _ = build_parser(
        "webhooks",
        "List and replay webhook deliveries of the key's own tenant.",
        SUBCOMMANDS,
        "nothing here needs",
    )
    return run_verb("webhooks", SUBCOMMANDS, parser.parse_args(argv))
