"""Command line options of `jitney bench` and their defaults."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cli import arguments
from cli.bench.load_levels import MODES, WAIT

DEFAULT_CONCURRENCIES: Final = (1, 16, 64)
MAX_CONCURRENCY: Final = 4096
MAX_RATE: Final = 1_000_000


def read(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    args = _parser().parse_args(argv)
    if args.concurrency is None:
        args.concurrency = [] if args.rate else [*DEFAULT_CONCURRENCIES]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitney bench",
        description="Measure a running service, and ONNX Runtime alone on the same model, in alternation.",
    )
    add = parser.add_argument
    url_help = "URL of the service (%(default)s); JITNEY_API_KEY sets the API key"
    add("--url", default="http://127.0.0.1:8000", help=url_help)
    add("--model", metavar="NAME", help="model (default: the only one, or digits)")
    inputs = "inputs, used in rotation: request bodies, .jsonl with an input of a job in each line, or lines of text"
    add("--input", nargs="+", type=Path, default=[], metavar="FILE", help=inputs)
    modes = "wait: result in the same request; poll: submit, then long-poll; bulk: many jobs in one request"
    add("--mode", type=_parse_modes, default=[WAIT], metavar="wait,poll,bulk", help=f"{modes} (wait)")
    loop = "closed loop: requests in flight (1,16,64 without --rate)"
    add("--concurrency", type=_parse_concurrencies, metavar="1,16,64", help=loop)
    rate = "open loop: jobs per second, sent at a fixed rate regardless of responses"
    add("--rate", type=_parse_rates, default=[], metavar="50,100", help=rate)
    add("--bulk-size", type=arguments.int_between(1, 10_000), default=32, metavar="N", help="jobs per request (32)")
    limit = "maximum connections of the open loop (%(default)s)"
    add("--connections", type=arguments.int_between(1, MAX_CONCURRENCY), default=256, metavar="N", help=limit)
    add("--seconds", type=arguments.float_between(0.001, 3600), default=3.0, help="duration of each measurement (3)")
    add("--rounds", type=arguments.int_between(1, 1000), default=3, help="measurements of each load (%(default)s)")
    folder = "folder with the same model, for the raw baseline (%(default)s)"
    add("--models-dir", type=Path, default=arguments.models_dir(), help=folder)
    add("--json", action="store_true", help="print one JSON document")
    add("--plot", type=_parse_png_path, metavar="FILE.png", help="plot throughput and p99 over load (needs matplotlib)")
    return parser


def _split_list(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def _parse_modes(text: str) -> list[str]:
    parts = _split_list(text)
    if not set(parts) <= set(MODES):
        raise argparse.ArgumentTypeError(f"{text!r}: must be one or more of {', '.join(MODES)}, separated by commas")
    return parts


def _parse_concurrencies(text: str) -> list[int]:
    values = [int(part) if part.isdecimal() else 0 for part in _split_list(text)]
    if not all(1 <= value <= MAX_CONCURRENCY for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: must be integers from 1 to {MAX_CONCURRENCY}, separated by commas")
    return values


def _parse_rates(text: str) -> list[float]:
    values = [_parse_number(part) for part in _split_list(text)]
    if not all(0 < value <= MAX_RATE for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: must be numbers above 0, at most {MAX_RATE}, separated by commas")
    return values


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _parse_png_path(text: str) -> Path:
    file = Path(text)
    if file.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text!r}: must be a file name that ends in .png")
    return file
