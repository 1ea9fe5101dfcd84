"""`jitney queues list|pause|resume|purge`: lists, pauses, resumes and purges queues."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cli.control.subcommands import Subcommand, build_parser, pick, repeat, run_verb
from cli.gateway_client import GatewayClient, segment
from cli.output import add_json, print_json, print_table

PATH: Final = "/v1/queues"
LANES: Final = ("interactive", "bulk")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name of the model")
    parser.add_argument("--lane", choices=LANES, help="only this lane")


def _list(gateway: GatewayClient, args: argparse.Namespace) -> int:
    answer = gateway.call("GET", PATH)
    if args.json:
        print_json(answer)
    else:
        _print_queues(answer)
    return 0


def _print_queues(answer: Mapping[str, Any]) -> None:
    shown = [queue for queue in answer["queues"] if queue["lane"] in LANES or queue["waiting"]]
    names = ("model", "version", "lane", "waiting", "oldest_seconds", "running")
    rows = [[*pick(queue, *names), _describe_pause(queue["paused"])] for queue in shown]
    print_table(["model", "version", "lane", "waiting", "oldest (s)", "running", "paused"], rows)


def _describe_pause(pause: Mapping[str, Any] | None) -> str | None:
    return f"since {pause['since']}, new jobs: {pause['submits']}" if pause else None


def _add_pause(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    text = "whether new jobs are accepted or refused while the queue is paused (accept)"
    parser.add_argument("--submits", choices=("accept", "refuse"), default="accept", help=text)


def _pause(gateway: GatewayClient, args: argparse.Namespace) -> int:
    body = {"lane": args.lane, "submits": args.submits}
    _print_queues(gateway.call("POST", f"{PATH}/{segment(args.model)}/pause", body))
    return 0


def _resume(gateway: GatewayClient, args: argparse.Namespace) -> int:
    _print_queues(gateway.call("POST", f"{PATH}/{segment(args.model)}/resume", {"lane": args.lane}))
    return 0


def _add_purge(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--version", help="only this version")
    parser.add_argument("--yes", action="store_true", help="do not ask for the name of the model")


def _purge(gateway: GatewayClient, args: argparse.Namespace) -> int:
    if not args.yes and not _is_confirmed(args.model):
        print("jitney queues: nothing is canceled", file=sys.stderr)
        return 1
    body = {"confirm": args.model, "lane": args.lane, "version": args.version}
    path = f"{PATH}/{segment(args.model)}/purge"
    done = repeat(lambda cursor: gateway.call("POST", path, {**body, "cursor": cursor}), ("canceled",))
    print(f"{done['canceled']} jobs are canceled")
    return 0


def _is_confirmed(model: str) -> bool:
    """Ask for the name of the model; a closed standard input is no."""
    print(
        f"All jobs that wait for model {model} will be canceled. Enter the name of the model: ", end="", file=sys.stderr
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip() == model


SUBCOMMANDS: Final = {
    "list": Subcommand("list queues, with their waiting and running jobs, by model, version and lane", _list, add_json),
    "pause": Subcommand("pause a queue: workers claim nothing from it", _pause, _add_pause),
    "resume": Subcommand("resume a queue", _resume, _add_model),
    "purge": Subcommand("purge a queue: cancel all its waiting jobs", _purge, _add_purge),
}


def main(argv: Sequence[str]) -> int:
    parser, _ = build_parser("queues", "List, pause, resume and purge queues.", SUBCOMMANDS, "all of this needs")
    return run_verb("queues", SUBCOMMANDS, parser.parse_args(argv))
