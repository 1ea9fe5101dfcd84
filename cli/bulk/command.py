"""The verb `bulk`: runs, or tells of a run, or cancels it; owns the exit codes."""

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
    """Returns the exit code: 0, 1 where lines failed, 2 where it can not run, 128 and the signal that stopped it."""
    given = options.read_options(argv)
    try:
        journal = rows.journal_path(given.output)
        if given.status:
            return _print_status(journal)
        if given.cancel:
            return asyncio.run(cancel.cancel(journal, given.url))
        return _run(given, journal)
    except CannotRun as error:
        print_message(str(error))
        return EXIT_CANNOT_RUN


def _run(given: argparse.Namespace, journal: Path) -> int:
    began = time.monotonic()
    failures, number = asyncio.run(run_until_stopped(BulkRun(given)))
    state = read_state(journal)
    if state is None:
        return EXIT_SIGNAL_BASE + number
    if number:
        print_message(f"stopped after {state.lines} lines; the same command goes on from there")
        return EXIT_SIGNAL_BASE + number
    print_message(f"{summary(state)} in {time.monotonic() - began:.1f} s: {given.output}")
    return EXIT_SOME_FAILED if failures else 0


def summary(state: RunState) -> str:
    """Say how a run ended."""
    text = f"{state.lines} lines, {state.lines - state.failures} succeeded, {state.failures} failed"
    if state.failed:
        text += f" ({', '.join(f'{code} {count}' for code, count in sorted(state.failed.items()))})"
    return f"{text}, mean batch {state.mean_batch:.1f}" if state.ran else text


def _print_status(journal: Path) -> int:
    state = read_state(journal)
    if state is None:
        raise CannotRun(f"there is no run of {journal}")
    told = {
        "status": "running" if is_locked(journal) else state.ended or "killed",
        "input": describe_input(state.given),
        "model": state.model,
        "where": state.where,
        "lines": state.lines,
        "total": state.total,
        "failed": state.failed,
        "seconds": round(state.seconds, 1),
        "mean_batch": round(state.mean_batch, 1),
    }
    if (retry := read_state(retry_journal_path(journal))) is not None:
        told["retry"] = {"lines": retry.lines, "total": retry.total, "failed": retry.failed}
    sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
    return 0
