"""`jitney jobs list|cancel|purge|inspect`: finds jobs by filter, cancels many, purges one."""

import argparse
from collections.abc import Sequence
from typing import Final

from cli import job_records
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

PATH: Final = "/v1/jobs"
FILTERS: Final = ("status", "model", "version", "lane", "tenant", "since", "until")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--status", help="state of the jobs, or several with commas")
    parser.add_argument("--model", help="name of the model")
    parser.add_argument("--version", help="version of the model")
    parser.add_argument("--lane", choices=("interactive", "bulk"), help="lane")
    parser.add_argument("--tenant", help="another tenant, or * for all; needs a key with the role admin")
    add_time_span(parser, "accepted")
    text = "a pair that the metadata of a job must have; may be repeated"
    parser.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE", type=_pair, help=text)


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: must be KEY=VALUE")
    return key, value


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    parser.add_argument("--code", help="error code of jobs that failed, expired or were canceled")
    add_limit(parser)
    add_json(parser)


def _list(gateway: GatewayClient, args: argparse.Namespace) -> int:
    filters = {name: getattr(args, name) for name in (*FILTERS, "code")}
    query = filters | {f"metadata.{key}": value for key, value in args.metadata}
    jobs = list(read_pages(gateway, PATH, query, "jobs", args.limit))
    if args.json:
        print_json(jobs)
        return 0
    names = ["id", "status", "model", "version", "lane", "created_at", *(["tenant"] if args.tenant else [])]
    print_table([*names, "code"], [[*pick(job, *names), (job["error"] or {}).get("code")] for job in jobs])
    return 0


def _add_cancel(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="cancel all open jobs, in place of a filter")
    parser.add_argument("--dry-run", action="store_true", help="count the jobs, and cancel none")


def _cancel(gateway: GatewayClient, args: argparse.Namespace) -> int:
    body = {name: getattr(args, name) for name in FILTERS} | {"metadata": dict(args.metadata) or None}
    body |= {"all": args.all or None, "dry_run": args.dry_run or None}
    done = repeat(
        lambda cursor: gateway.call("POST", f"{PATH}/cancel", {**body, "cursor": cursor}), ("matched", "canceled")
    )
    print(f"{done['matched']} jobs match" if args.dry_run else f"{done['canceled']} jobs are canceled")
    return 0


def _add_purge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="id of the job")
    parser.add_argument("--tenant", help="the tenant of the job, or * for any; needs a key with the role admin")


def _purge(gateway: GatewayClient, args: argparse.Namespace) -> int:
    gateway.call("DELETE", f"{PATH}/{segment(args.id)}", query={"purge": "true", "tenant": args.tenant})
    print(f"job {args.id} is purged")
    return 0


SUBCOMMANDS: Final = {
    "list": Subcommand("list jobs by filter, newest first", _list, _add_list),
    "cancel": Subcommand("cancel the queued and running jobs that match a filter", _cancel, _add_cancel),
    "purge": Subcommand("delete the data of a job that has ended", _purge, _add_purge),
}


def main(argv: Sequence[str]) -> int:
    parser, subparsers = build_parser(
        "jobs", "Find, cancel and purge jobs.", SUBCOMMANDS, "jobs of other tenants need", more="inspect"
    )
    job_records.add_inspect(subparsers)
    args = parser.parse_args(argv)
    return job_records.run_inspect(args) if args.what == "inspect" else run_verb("jobs", SUBCOMMANDS, args)
