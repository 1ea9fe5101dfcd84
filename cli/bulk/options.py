"""Command line options of `jitney bulk` and their defaults."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from cli import arguments

DEFAULT_URL: Final = "http://127.0.0.1:8000"
DEFAULT_MAX_IN_FLIGHT: Final = 1000
MAX_IN_FLIGHT_LIMIT: Final = 100_000


def read_options(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid."""
    parser, run = _parsers()
    args = parser.parse_args(argv)
    if args.local and args.url:
        run.error("use either --local or --url: --local runs without a service")
    if sum((args.status, args.cancel, args.retry_failed)) > 1:
        run.error("use only one of --status, --cancel and --retry-failed")
    return args


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="jitney bulk", description="Run many inputs into one results file.")
    verbs = parser.add_subparsers(dest="what", required=True, metavar="run")
    run = verbs.add_parser(
        "run",
        help="run every line of an input and write its result",
        description="Run every line of INPUT and write a row for each, in the same order. If the run is stopped or "
        "killed, the same command resumes it.",
        epilog="exit code: 0 all succeeded, 1 some lines failed, 2 the run cannot start or continue, 130 stopped by "
        "Ctrl-C. JITNEY_API_KEY is sent to the service as the API key.",
    )
    add = run.add_argument
    kinds = "folder, images, audio files, quoted glob, .zip, .tar*, .jsonl, .csv, .parquet or s3://BUCKET/PREFIX"
    add("input", nargs="*", metavar="INPUT", help=f"{kinds}; may be omitted to resume a run")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="results file: .jsonl, .csv or .parquet")
    add("--model", metavar="NAME", help="model (default: the only one)")
    add("--url", help=f"URL of the service ({DEFAULT_URL})")
    local = "run without a service: a model folder, or a folder of models with --model"
    add("--local", type=Path, metavar="MODEL_DIR", help=local)
    parameters = "parameters of jobs that have none, such as '{\"top_k\": 1}'"
    add("--parameters", type=_parse_json_object, default={}, metavar="JSON", help=parameters)
    add(
        "--column",
        metavar="NAME",
        help="table column with paths or URLs (path, file, filename, image, audio, url, uri)",
    )
    add("--encoding", type=_parse_encoding, metavar="NAME", help="encoding of a .csv that is not UTF-8, such as cp1252")
    add("--retry-failed", action="store_true", help="rerun the failed lines and replace their rows")
    jobs, limit = arguments.int_between(1, MAX_IN_FLIGHT_LIMIT), DEFAULT_MAX_IN_FLIGHT
    text = f"maximum jobs in flight ({limit}); fewer after 429 or 503"
    add("--max-in-flight", type=jobs, default=limit, metavar="N", help=text)
    add("--status", action="store_true", help="print the progress of the run as JSON")
    add("--cancel", action="store_true", help="stop the run and cancel its jobs")
    add("--quiet", action="store_true", help="show no progress")
    return parser, run


def _parse_encoding(text: str) -> str:
    try:
        "".encode(text)  # also refuses codecs that do not encode text
    except (LookupError, ValueError) as error:
        allowed = "cp1252, utf-16, latin-1 and others that Python supports"
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a text encoding; allowed: {allowed}") from error
    return text


def _parse_json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text[:40]}")
    return value
