"""`jitney bench`: runs a measurement, prints and plots it, and returns the exit code."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from cli.bench import options
from cli.bench.errors import CannotMeasure
from cli.bench.load import inputs, target
from cli.bench.load.connection import Address
from cli.bench.load.service_cpu import ServiceCpu
from cli.bench.report import table
from cli.bench.session import BenchSession, MeasurementPlan
from cli.extras import missing_packages

EXIT_PLOT_FAILED = 1
EXIT_CANNOT_MEASURE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Return the exit code: 0, 1 if only the plot failed, 2 if nothing was measured, 130 after Ctrl-C."""
    args = options.read(argv)
    session: BenchSession | None = None
    code = 0
    try:
        _check_plot(args.plot)
        session = _create_session(args)
        session.prepare(_print_message)
        session.run(_print_message)
    except CannotMeasure as error:
        _print_message(str(error))
        return EXIT_CANNOT_MEASURE
    except KeyboardInterrupt:
        _print_message("interrupted")
        code = EXIT_INTERRUPTED
    if session is not None and (session.slices or session.raws):
        _print(json.dumps(table.build_document(session), indent=2) if args.json else table.format_report(session))
        if args.plot and session.slices and not _draw(session, args.plot):
            code = code or EXIT_PLOT_FAILED
    return code


def _create_session(args: argparse.Namespace) -> BenchSession:
    selected = target.find_target(Address.of(args.url), args.model)
    plan = MeasurementPlan(**{field.name: getattr(args, field.name) for field in fields(MeasurementPlan)})
    chosen = inputs.gather_inputs(selected, args.input, args.models_dir)
    return BenchSession(selected, chosen, plan, ServiceCpu(selected.address))


def _check_plot(file: Path | None) -> None:
    """Raise CannotMeasure if the plot cannot be written, before anything is measured."""
    if file is None:
        return
    if hint := missing_packages("plot", "matplotlib"):
        raise CannotMeasure(f"--plot {hint}")
    if not os.access(file.parent, os.W_OK) or file.is_dir():
        raise CannotMeasure(f"--plot {file}: cannot be written")


def _draw(session: BenchSession, file: Path) -> bool:
    try:
        importlib.import_module("cli.bench.report.plot").draw(session, file)
    except OSError as error:
        _print_message(f"--plot {file}: {error.strerror}")
        return False
    _print_message(f"plot written to {file}")
    return True


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Ctrl-C also ends the process at the other end of the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def _print_message(line: str) -> None:
    print(f"jitney bench: {line}", file=sys.stderr, flush=True)
