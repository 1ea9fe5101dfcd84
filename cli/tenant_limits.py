"""`jitney tenants list|set|unset`: limits of single tenants, kept in the queue, where every process reads them."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cli.api_keys import EX_CONFIG, EX_UNAVAILABLE, TIMEOUT_S
from cli.serve.redis_address import QueueAddress, QueueNotFound, locate
from jobs.config import settings_agreement
from jobs.contract import ids
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.tenants import stored_limits
from jobs.tenants.limits import MAX_LIMIT, MAX_WEIGHT, LimitOverride

_LIMIT_HELP: Final = {
    "weight": f"its share of the seats beside other tenants, 1 to {MAX_WEIGHT}",
    "requests": "requests in JITNEY_TENANT_WINDOW_S at one gateway",
    "jobs": "jobs that may wait or run",
    "bytes": "bytes of their inputs",
    "running": "jobs that may run at a time",
}
_COLUMN_WIDTH: Final = 14


async def run(given: argparse.Namespace, queue: QueueAddress) -> int:
    """Do what was asked; returns the exit code, raises StoreUnavailable."""
    connection = RedisClient(queue.address.url, TIMEOUT_S, url_file=queue.address.file)
    try:
        if given.what == "set":
            return await _set(connection, given)
        if given.what == "unset":
            return await _unset(connection, given.tenant)
        return await _list(connection)
    finally:
        await connection.aclose()


async def _set(connection: RedisClient, given: argparse.Namespace) -> int:
    limits = {name: getattr(given, name) for name in _LIMIT_HELP if name in given}
    kept = await stored_limits.update_limits(connection, given.tenant, limits)
    own = ", ".join(f"{name} {value}" for name, value in kept if value is not None) or "none of its own"
    print(f"limits of tenant {given.tenant}: {own}; the others are the default ones", file=sys.stderr)
    return 0


async def _unset(connection: RedisClient, tenant: str) -> int:
    if not await stored_limits.delete_limits(connection, tenant):
        message = f"jitney tenants: tenant {tenant} has no limits of its own; `jitney tenants list` shows who has"
        print(message, file=sys.stderr)
        return 1
    print(f"tenant {tenant} has the default limits", file=sys.stderr)
    return 0


async def _list(connection: RedisClient) -> int:
    known = await stored_limits.read_limits(connection)
    shards = await settings_agreement.read_shards(connection)
    default = await _default_limits(connection)
    loads = await connection.pipeline([("HGETALL", keys.open_totals(shard)) for shard in range(shards)])
    names = ("tenant", *_LIMIT_HELP, "open jobs", "open bytes", "running now")
    print("  ".join(name.ljust(20 if name == "tenant" else _COLUMN_WIDTH) for name in names).rstrip())
    for tenant, limits in sorted(known.items()):
        used = [_current_usage(loads, tenant, what) for what in ("jobs", "bytes", "running")]
        print(_format_row(tenant, [_format_limit(limits, name, default) for name in _LIMIT_HELP], used))
    print(_format_row("(all others)", [default.get(name, "?") for name in _LIMIT_HELP], []))
    return 0


def _format_row(tenant: str, limits: Sequence[str], used: Sequence[str]) -> str:
    return "  ".join([tenant.ljust(20), *(word.ljust(_COLUMN_WIDTH) for word in (*limits, *used))]).rstrip()


def _format_limit(limits: LimitOverride, name: str, default: Mapping[str, str]) -> str:
    """Give a limit as a word: in brackets where it is the default one, 0 = no limit."""
    value = getattr(limits, name)
    return f"({default.get(name, '?')})" if value is None else str(value)


async def _default_limits(connection: RedisClient) -> dict[str, str]:
    """Give the default limits by what a live gateway has announced; empty where none lives."""
    found = [one for one in await settings_agreement.read_processes(connection) if one.part == "gateway"]
    if not found:
        return {}
    settings = found[0].settings
    return {"weight": "1", **{name: settings.get(f"JITNEY_TENANT_{name.upper()}", "?") for name in [*_LIMIT_HELP][1:]}}


def _current_usage(loads: Sequence[Mapping[bytes, bytes]], tenant: str, what: str) -> str:
    """Give what is counted of a tenant now; "-" where nothing is, as without a limit."""
    counts = [int(load[field]) for load in loads if (field := f"@{tenant}:{what}".encode()) in load]
    return str(sum(counts)) if counts else "-"


def _parse_tenant(text: str) -> str:
    if ids.TENANT_NAME.fullmatch(text):
        return text
    message = f"{text[:80]!r} is no tenant's name: 1 to 64 of a-z, 0-9, _ and -, the first a letter or a digit"
    raise argparse.ArgumentTypeError(message)


def _limit_parser(low: int, high: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        if text == "default":
            return None
        if text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high:
            return int(text)
        zero = " (0 = no limit)" if low == 0 else ""
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: a whole number from {low} to {high}{zero}, or default")

    return read


def main(argv: Sequence[str]) -> int:
    """The verb `tenants`; returns the exit code."""
    where = (
        "The queue is the one that JITNEY_REDIS_URL or JITNEY_REDIS_URL_FILE names or, without them, "
        "the one that runs in JITNEY_DATA_DIR "
        "(.data). Which one it is goes to stderr."
    )
    parser = argparse.ArgumentParser(prog="jitney tenants", description="Limits of single tenants.", epilog=where)
    verbs = parser.add_subparsers(dest="what", required=True, metavar="list|set|unset")
    verbs.add_parser("list", help="list tenants with limits of their own, and what they use")
    change = verbs.add_parser("set", help="set some of a tenant's limits, and leave its others", epilog=where)
    change.add_argument("tenant", type=_parse_tenant, help="as its API keys name it")
    for name, meaning in _LIMIT_HELP.items():
        low, high = (1, MAX_WEIGHT) if name == "weight" else (0, MAX_LIMIT)
        words = {"type": _limit_parser(low, high), "default": argparse.SUPPRESS, "metavar": "N"}
        change.add_argument(f"--{name}", help=f"{meaning}; default: as TENANT_* says", **words)  # type: ignore[arg-type]
    forget = verbs.add_parser("unset", help="give a tenant the default limits again")
    forget.add_argument("tenant", type=_parse_tenant, help="as `list` shows it")
    given = parser.parse_args(argv)
    if given.what == "set" and not any(name in given for name in _LIMIT_HELP):
        change.error("name a limit to set, such as --jobs 1000")
    logging.getLogger("jitney.jobs").setLevel(logging.CRITICAL)  # what goes wrong is said below
    try:
        queue = locate(os.environ)
        print(f"jitney tenants: the queue is {queue}", file=sys.stderr)
        return asyncio.run(run(given, queue))
    except ValueError as error:
        print(f"jitney tenants: {error}", file=sys.stderr)
        return EX_CONFIG
    except (QueueNotFound, StoreUnavailable) as error:
        print(f"jitney tenants: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
