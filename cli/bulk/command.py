"""`jitney bulk`: starts, shows or cancels a bulk run, and returns the exit code."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from cli.bulk import cancel, options
from cli.bulk.errors import CannotRun
from cli.bulk.inputs.sources import describe_input
from cli.bulk.progress import print_message
from cli.bulk.results import rows
from cli.bulk.results.results_journal import RunState, is_locked, read_state
from cli.bulk.results.retry_failed import retry_journal_path
from cli.bulk.run import BulkRun, run_until_stopped

EXIT_SOME_FAILED: Final = 1
EXIT_CANNOT_RUN: Final = 2
EXIT_SIGNAL_BASE: Final = 128


def main(argv: Sequence[str]) -> int:
    """Return the exit code: 0, 1 if lines failed, 2 if it cannot run, 128 + the signal that stopped it."""
    args = options.read_options(argv)
    try:
        journal = rows.journal_path(args.output)
        if args.status:
            return _print_status(journal)
        if args.cancel:
            return asyncio.run(cancel.cancel(journal, args.url))
        return _run(args, journal)
    except CannotRun as error:
        print_message(str(error))
        return EXIT_CANNOT_RUN


def _run(args: argparse.Namespace, journal: Path) -> int:
    started = time.monotonic()
    failures, signal_number = asyncio.run(run_until_stopped(BulkRun(args)))
    state = read_state(journal)
    if state is None:
        return EXIT_SIGNAL_BASE + signal_number
    if signal_number:
        print_message(f"stopped after {state.lines} lines; the same command resumes the run")
        return EXIT_SIGNAL_BASE + signal_number
    print_message(f"{summary(state)} in {time.monotonic() - started:.1f} s: {args.output}")
    return EXIT_SOME_FAILED if failures else 0


def summary(state: RunState) -> str:
    """Describe how a run ended."""
    text = f"{state.lines} lines, {state.lines - state.failures} succeeded, {state.failures} failed"
    if state.failed:
        text += f" ({', '.join(f'{code} {count}' for code, count in sorted(state.failed.items()))})"
    return f"{text}, mean batch {state.mean_batch:.1f}" if state.ran else text


def _print_status(journal: Path) -> int:
    state = read_state(journal)
    if state is None:
        raise CannotRun(f"no run has written {journal}")
    status = {
        "status": "running" if is_locked(journal) else state.ended or "killed",
        "input": describe_input(state.inputs),
        "model": state.model,
        "where": state.where,
        "lines": state.lines,
        "total": state.total,
        "failed": state.failed,
        "seconds": round(state.seconds, 1),
        "mean_batch": round(state.mean_batch, 1),
    }
    if (retry := read_state(retry_journal_path(journal))) is not None:
        status["retry"] = {"lines": retry.lines, "total": retry.total, "failed": retry.failed}
    sys.stdout.write(orjson.dumps(status, option=orjson.OPT_INDENT_2).decode() + "\n")
    return 0
