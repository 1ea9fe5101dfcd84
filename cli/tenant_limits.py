"""`jitney tenants list|set|unset|usage`: manages the limits of tenants in Redis; shows usage through a gateway."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from cli.control.subcommands import add_limit, read_pages
from cli.gateway_client import GatewayClient, add_url, describe_environment, run_on_gateway, segment
from cli.output import add_json, print_json, print_table
from cli.queue_command import WHICH_QUEUE, parse_tenant, run_on_queue
from jobs.config import settings_agreement
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.tenants import stored_limits
from jobs.tenants.limits import MAX_LIMIT, MAX_WEIGHT, LimitOverride

_LIMIT_HELP: Final = {
    "weight": f"its share of the free slots relative to other tenants, 1 to {MAX_WEIGHT}",
    "requests": "requests per JITNEY_TENANT_WINDOW_S and gateway",
    "jobs": "open jobs, queued or running",
    "bytes": "input bytes of open jobs",
    "running": "jobs that run at the same time",
}
_COLUMN_WIDTH: Final = 14


async def run(args: argparse.Namespace, connection: RedisClient) -> int:
    """Run one subcommand and return its exit code. Raises StoreUnavailable."""
    if args.what == "set":
        return await _set_limits(connection, args)
    if args.what == "unset":
        return await _unset_limits(connection, args.tenant)
    return await _list_limits(connection)


async def _set_limits(connection: RedisClient, args: argparse.Namespace) -> int:
    limits = {name: getattr(args, name) for name in _LIMIT_HELP if name in args}
    stored = await stored_limits.update_limits(connection, args.tenant, limits)
    own = ", ".join(f"{name} {value}" for name, value in stored if value is not None) or "none"
    print(f"own limits of tenant {args.tenant}: {own}; the others are the defaults", file=sys.stderr)
    return 0


async def _unset_limits(connection: RedisClient, tenant: str) -> int:
    if not await stored_limits.delete_limits(connection, tenant):
        message = f"jitney tenants: tenant {tenant} has no own limits; `jitney tenants list` shows the tenants that do"
        print(message, file=sys.stderr)
        return 1
    print(f"tenant {tenant} has the default limits again", file=sys.stderr)
    return 0


async def _list_limits(connection: RedisClient) -> int:
    overrides = await stored_limits.read_limits(connection)
    shards = await settings_agreement.read_shards(connection)
    default = await _default_limits(connection)
    loads = await connection.pipeline([("HGETALL", keys.open_totals(shard)) for shard in range(shards)])
    names = ("tenant", *_LIMIT_HELP, "open jobs", "open bytes", "running now")
    print("  ".join(name.ljust(20 if name == "tenant" else _COLUMN_WIDTH) for name in names).rstrip())
    for tenant, limits in sorted(overrides.items()):
        used = [_current_usage(loads, tenant, field) for field in ("jobs", "bytes", "running")]
        print(_format_row(tenant, [_format_limit(limits, name, default) for name in _LIMIT_HELP], used))
    print(_format_row("(all others)", [default.get(name, "?") for name in _LIMIT_HELP], []))
    return 0


def _format_row(tenant: str, limits: Sequence[str], used: Sequence[str]) -> str:
    return "  ".join([tenant.ljust(20), *(cell.ljust(_COLUMN_WIDTH) for cell in (*limits, *used))]).rstrip()


def _format_limit(limits: LimitOverride, name: str, default: Mapping[str, str]) -> str:
    """Format a limit; a default one stands in parentheses. 0 means no limit."""
    value = getattr(limits, name)
    return f"({default.get(name, '?')})" if value is None else str(value)


async def _default_limits(connection: RedisClient) -> dict[str, str]:
    """Return the default limits that a live gateway has registered; empty without one."""
    gateways = [process for process in await settings_agreement.read_processes(connection) if process.part == "gateway"]
    if not gateways:
        return {}
    settings = gateways[0].settings
    return {"weight": "1", **{name: settings.get(f"JITNEY_TENANT_{name.upper()}", "?") for name in [*_LIMIT_HELP][1:]}}


def _current_usage(loads: Sequence[Mapping[bytes, bytes]], tenant: str, name: str) -> str:
    """Return a tenant's total over all shards; "-" where Redis counts nothing, as without a limit."""
    counts = [int(load[field]) for load in loads if (field := f"@{tenant}:{name}".encode()) in load]
    return str(sum(counts)) if counts else "-"


def _show_usage(args: argparse.Namespace, gateway: GatewayClient) -> int:
    if args.tenant:
        tenants = [gateway.call("GET", f"/v1/tenants/{segment(args.tenant)}")]
    else:
        tenants = list(read_pages(gateway, "/v1/tenants", {}, "tenants", args.limit))
    if args.json:
        print_json(tenants)
        return 0
    columns = ["jobs", "rows", "input_bytes", "jobs_run", "output_bytes", "device_seconds"]
    print_table(["tenant", *columns], [[one["tenant"], *(one["usage"][name] for name in columns)] for one in tenants])
    return 0


def _limit_parser(low: int, high: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        if text == "default":
            return None
        if text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high:
            return int(text)
        zero = " (0 = no limit)" if low == 0 else ""
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be an integer from {low} to {high}{zero}, or default")

    return read


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "jitney tenants", description="Manage limits of single tenants.", epilog=WHICH_QUEUE
    )
    verbs = parser.add_subparsers(dest="what", required=True, metavar="list|set|unset|usage")
    verbs.add_parser("list", help="list the tenants that have own limits, with their current usage")
    change = verbs.add_parser("set", help="set some limits of a tenant and keep the others", epilog=WHICH_QUEUE)
    change.add_argument("tenant", type=parse_tenant, help="the tenant name in its API keys")
    for name, meaning in _LIMIT_HELP.items():
        low, high = (1, MAX_WEIGHT) if name == "weight" else (0, MAX_LIMIT)
        options = {"type": _limit_parser(low, high), "default": argparse.SUPPRESS, "metavar": "N"}
        change.add_argument(f"--{name}", help=f"{meaning}; `default` restores the setting JITNEY_TENANT_*", **options)  # type: ignore[arg-type]
    forget = verbs.add_parser("unset", help="restore the default limits of a tenant")
    forget.add_argument("tenant", type=parse_tenant, help="the tenant name, as `list` shows it")
    usage = verbs.add_parser(
        "usage",
        help="show what tenants have used since the queue was created",
        epilog=describe_environment("all tenants need"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usage.add_argument("tenant", nargs="?", help="only this tenant (all)")
    add_limit(usage)
    add_json(usage)
    add_url(usage)
    args = parser.parse_args(argv)
    if args.what == "usage":
        return run_on_gateway("jitney tenants", args.url, partial(_show_usage, args))
    if args.what == "set" and not any(name in args for name in _LIMIT_HELP):
        change.error("give at least one limit, such as --jobs 1000")
    return run_on_queue("jitney tenants", partial(run, args))
