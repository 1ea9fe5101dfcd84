"""The verb `bench`: reads the command line, has a session measured, prints it; owns the exit codes."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.bench import inputs, report, target
from scripts.bench.connection import Address
from scripts.bench.errors import CannotMeasure
from scripts.bench.session import Plan, Session

CANNOT_MEASURE = 2
INTERRUPTED = 130
MAX_CONCURRENCY = 4096


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0, 2 where nothing could be measured, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    session: Session | None = None
    code = 0
    try:
        session = _session(args)
        session.prepare(_say)
        session.run(_say)
    except CannotMeasure as error:
        _say(str(error))
        return CANNOT_MEASURE
    except KeyboardInterrupt:
        _say("broken off")
        code = INTERRUPTED
    if session is not None and (session.slices or session.raws):
        _print(json.dumps(report.document(session), indent=2) if args.json else report.text(session))
    return code


def _session(args: argparse.Namespace) -> Session:
    found = target.find(Address.of(args.url), args.model)
    plan = Plan(args.concurrency, args.seconds, args.rounds, args.models_dir)
    return Session(found, inputs.gather(found, args.input), plan)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitney bench",
        description="Measure a running service, and ONNX Runtime alone on the same model, in turn.",
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="where the service listens (%(default)s)")
    add("--model", metavar="NAME", help="the model (default: the only one, or digits)")
    add("--input", nargs="+", type=Path, default=[], metavar="FILE", help="request bodies, used in turn")
    add("--concurrency", type=_concurrencies, default=[1, 16, 64], metavar="1,16,64", help="requests in flight")
    add("--seconds", type=_seconds, default=3.0, help="length of each measured stretch (3)")
    add("--rounds", type=_rounds, default=3, help="how often each is measured (%(default)s)")
    models_dir = Path(os.environ.get("MODELS_DIR") or "models")
    add("--models-dir", type=Path, default=models_dir, help="where the raw side finds the same model (%(default)s)")
    add("--json", action="store_true", help="print one JSON document")
    return parser


def _concurrencies(written: str) -> list[int]:
    values = [int(part) for part in written.split(",") if part.strip().isdecimal()]
    if len(values) != written.count(",") + 1 or not all(1 <= value <= MAX_CONCURRENCY for value in values):
        raise argparse.ArgumentTypeError(f"{written!r}: whole numbers from 1 to {MAX_CONCURRENCY}, commas between")
    return list(dict.fromkeys(values))


def _seconds(written: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = 0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{written!r}: a number above 0, at most 3600")
    return value


def _rounds(written: str) -> int:
    if not (written.isdecimal() and 1 <= int(written) <= 1000):
        raise argparse.ArgumentTypeError(f"{written!r}: a whole number from 1 to 1000")
    return int(written)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Ctrl-C also ends what we are piped into
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def _say(line: str) -> None:
    print(f"jitney bench: {line}", file=sys.stderr, flush=True)
