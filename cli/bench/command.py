"""The verb `bench`: has a session measured, prints and draws it; owns the exit codes."""

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.bench import options
from cli.bench.errors import CannotMeasure
from cli.bench.load import inputs, target
from cli.bench.load.connection import Address
from cli.bench.load.service_cpu import ServiceCpu
from cli.bench.report import table
from cli.bench.session import BenchSession, MeasurementPlan

EXIT_PLOT_FAILED = 1
EXIT_CANNOT_MEASURE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 where only the picture failed, 2 where nothing was measured, 130 after Ctrl-C."""
    args = options.read(argv)
    session: BenchSession | None = None
    code = 0
    try:
        _check_plot(args.plot)
        session = _session(args)
        session.prepare(_say)
        session.run(_say)
    except CannotMeasure as error:
        _say(str(error))
        return EXIT_CANNOT_MEASURE
    except KeyboardInterrupt:
        _say("broken off")
        code = EXIT_INTERRUPTED
    if session is not None and (session.slices or session.raws):
        _print(json.dumps(table.build_document(session), indent=2) if args.json else table.format_report(session))
        if args.plot and session.slices and not _draw(session, args.plot):
            code = code or EXIT_PLOT_FAILED
    return code


def _session(args: argparse.Namespace) -> BenchSession:
    found = target.find_target(Address.of(args.url), args.model)
    plan = MeasurementPlan(
        modes=args.mode,
        concurrencies=args.concurrency,
        rates=args.rate,
        bulk_size=args.bulk_size,
        connections=args.connections,
        seconds=args.seconds,
        rounds=args.rounds,
        models_dir=args.models_dir,
    )
    return BenchSession(found, inputs.gather_inputs(found, args.input), plan, ServiceCpu(found.address))


def _check_plot(file: Path | None) -> None:
    """Before anything is measured: what would be drawn at the end can be drawn."""
    if file is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotMeasure(
            '--plot draws with matplotlib, which is not installed: pip install -e ".[plot]" in the checkout'
        )
    if not os.access(file.parent, os.W_OK) or file.is_dir():
        raise CannotMeasure(f"--plot {file}: can not be written")


def _draw(session: BenchSession, file: Path) -> bool:
    try:
        importlib.import_module("cli.bench.report.plot").draw(session, file)
    except OSError as error:
        _say(f"--plot {file}: {error.strerror}")
        return False
    _say(f"drawn: {file}")
    return True


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Ctrl-C also ends what we are piped into
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def _say(line: str) -> None:
    print(f"jitney bench: {line}", file=sys.stderr, flush=True)
