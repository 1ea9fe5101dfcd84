"""`jitney jobs inspect ID`: prints a job's record as it lies in Redis."""

import argparse
import sys
from datetime import UTC, datetime
from functools import partial

from cli.queue_command import WHICH_QUEUE, run_on_queue
from jobs.contract.ids import JOB_ID
from jobs.redis_client.client import RedisClient
from jobs.store.raw_record import read_record


async def run(args: argparse.Namespace, connection: RedisClient) -> int:
    """Print the record, a line a word; return the exit code. Raises StoreUnavailable."""
    record = await read_record(connection, args.id)
    if not record:
        message = f"jitney jobs: no job {args.id}: the id is wrong, or its result has expired (JITNEY_RESULT_TTL_S)"
        print(message, file=sys.stderr)
        return 1
    width = max(map(len, record))
    for name, text in record.items():
        print(f"{name:{width}}  {text}{_format_time(name, text)}")
    return 0


def _format_time(name: str, text: str) -> str:
    """Return the time behind a number of µs or ms, for people; "" for other words."""
    unit = {"_us": 1_000_000, "_ms": 1000}.get(name[-3:])
    if unit is None or not text.isdigit() or name.startswith("expires_in"):
        return ""
    return f"  {datetime.fromtimestamp(int(text) / unit, UTC).isoformat(timespec='milliseconds')}"


def _parse_id(text: str) -> str:
    if not JOB_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: a job id has 2 digits and 32 hexadecimal ones")
    return text


def add_inspect(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to those of `jitney jobs`."""
    inspect = parsers.add_parser("inspect", help="print a job's record as it lies in Redis", epilog=WHICH_QUEUE)
    inspect.add_argument("id", type=_parse_id, help="the id of the job")


def run_inspect(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    return run_on_queue("jitney jobs", partial(run, args))
