"""The command line of `jitney bench`: what may be asked for, and what is meant where nothing is said."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cli import arguments
from cli.bench.load_levels import MODES, WAIT

DEFAULT_CONCURRENCIES: Final = (1, 16, 64)
MAX_CONCURRENCY: Final = 4096
MAX_RATE: Final = 1_000_000


def read(argv: Sequence[str]) -> argparse.Namespace:
    """Ends the process, with words, where it makes no sense."""
    args = _parser().parse_args(argv)
    if args.concurrency is None:
        args.concurrency = [] if args.rate else [*DEFAULT_CONCURRENCIES]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitney bench",
        description="Measure a running service, and ONNX Runtime alone on the same model, in turn.",
    )
    add = parser.add_argument
    add(
        "--url",
        default="http://127.0.0.1:8000",
        help="where the service listens (%(default)s); JITNEY_API_KEY: its key",
    )
    add("--model", metavar="NAME", help="the model (default: the only one, or digits)")
    add("--input", nargs="+", type=Path, default=[], metavar="FILE", help="request bodies, used in turn")
    modes = "wait: the answer in the same request; poll: submit, then long-poll; bulk: many jobs in one request"
    add("--mode", type=_modes, default=[WAIT], metavar="wait,poll,bulk", help=f"{modes} (wait)")
    loop = "closed loop: requests in flight (1,16,64, where no --rate is given)"
    add("--concurrency", type=_concurrencies, metavar="1,16,64", help=loop)
    rate = "open loop: jobs a second, at a fixed rate whether or not the last is answered"
    add("--rate", type=_rates, default=[], metavar="50,100", help=rate)
    add("--bulk-size", type=arguments.int_between(1, 10_000), default=32, metavar="N", help="jobs in one request (32)")
    most = "most connections that an open loop opens (%(default)s)"
    add("--connections", type=arguments.int_between(1, MAX_CONCURRENCY), default=256, metavar="N", help=most)
    add("--seconds", type=arguments.float_between(0.001, 3600), default=3.0, help="length of each measured stretch (3)")
    add("--rounds", type=arguments.int_between(1, 1000), default=3, help="how often each is measured (%(default)s)")
    models_dir = Path(os.environ.get("JITNEY_MODELS_DIR") or "models")
    add("--models-dir", type=Path, default=models_dir, help="where the raw side finds the same model (%(default)s)")
    add("--json", action="store_true", help="print one JSON document")
    add("--plot", type=_png, metavar="FILE.png", help="draw throughput and p99 over load (needs matplotlib)")
    return parser


def _split_list(written: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in written.split(",")))


def _modes(written: str) -> list[str]:
    parts = _split_list(written)
    if not set(parts) <= set(MODES):
        raise argparse.ArgumentTypeError(f"{written!r}: one or more of {', '.join(MODES)}, commas between")
    return parts


def _concurrencies(written: str) -> list[int]:
    values = [int(part) if part.isdecimal() else 0 for part in _split_list(written)]
    if not all(1 <= value <= MAX_CONCURRENCY for value in values):
        raise argparse.ArgumentTypeError(f"{written!r}: whole numbers from 1 to {MAX_CONCURRENCY}, commas between")
    return values


def _rates(written: str) -> list[float]:
    values = [_parse_number(part) for part in _split_list(written)]
    if not all(0 < value <= MAX_RATE for value in values):
        raise argparse.ArgumentTypeError(f"{written!r}: numbers above 0, at most {MAX_RATE}, commas between")
    return values


def _parse_number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        return 0.0


def _png(written: str) -> Path:
    file = Path(written)
    if file.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{written!r}: a file name that ends in .png")
    return file
