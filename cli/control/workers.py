"""`jitney workers list|pause|resume`: lists live workers, pauses and resumes one."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from cli.control.subcommands import Subcommand, build_parser, pick, run_verb
from cli.gateway_client import GatewayClient, segment
from cli.output import add_json, print_json, print_table

PATH: Final = "/v1/workers"


def _list(gateway: GatewayClient, args: argparse.Namespace) -> int:
    answer = gateway.call("GET", PATH)
    if args.json:
        print_json(answer)
    else:
        _print_workers(answer["workers"])
    return 0


def _print_workers(workers: Iterable[Mapping[str, Any]]) -> None:
    rows = []
    for worker in workers:
        memory, models = worker["memory_bytes"], worker["models"]
        served = ", ".join(f"{model['name']} {model['version']} ({model['device']})" for model in models)
        names = ("id", "host", "pid", "status", "heartbeat_age_seconds")
        running = sum(model["running"] for model in models)
        rows.append([*pick(worker, *names), memory and memory >> 20, running, served])
    print_table(["id", "host", "pid", "status", "heartbeat (s)", "MiB", "running", "models"], rows)


def _add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="id of the worker, as `list` shows it")


def _change(verb: str, gateway: GatewayClient, args: argparse.Namespace) -> int:
    _print_workers([gateway.call("POST", f"{PATH}/{segment(args.id)}/{verb}")])
    return 0


def _pause(gateway: GatewayClient, args: argparse.Namespace) -> int:
    return _change("pause", gateway, args)


def _resume(gateway: GatewayClient, args: argparse.Namespace) -> int:
    return _change("resume", gateway, args)


SUBCOMMANDS: Final = {
    "list": Subcommand("list live workers with their models and devices", _list, add_json),
    "pause": Subcommand("pause a worker: it finishes its jobs and claims no others", _pause, _add_id),
    "resume": Subcommand("resume a worker", _resume, _add_id),
}


def main(argv: Sequence[str]) -> int:
    parser, _ = build_parser("workers", "List, pause and resume workers.", SUBCOMMANDS, "all of this needs")
    return run_verb("workers", SUBCOMMANDS, parser.parse_args(argv))
