"""The command line of `jitney bulk`: what may be asked for, and what is meant where nothing is said."""

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
    """Ends the process, with words, where it makes no sense."""
    parser, run = _parsers()
    given = parser.parse_args(argv)
    if given.local and given.url:
        run.error("--local runs in this process, --url through a service: give one of them")
    if sum((given.status, given.cancel, given.retry_failed)) > 1:
        run.error("give one of --status, --cancel and --retry-failed")
    return given


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="jitney bulk", description="Many inputs, one results file.")
    verbs = parser.add_subparsers(dest="what", required=True, metavar="run")
    run = verbs.add_parser(
        "run",
        help="run every line of an input, and write what became of it",
        description="Run every line of INPUT and write a row for each, in the same order. Stopped or killed at any "
        "moment, the same command goes on where it was.",
        epilog="exit code: 0 all succeeded, 1 some lines failed, 2 nothing was run or it can not go on, "
        "130 stopped by Ctrl-C. JITNEY_API_KEY is sent to the service as the API key.",
    )
    add = run.add_argument
    what = (
        "a folder, images, a glob in quotes, .zip, .tar*, .jsonl, .csv, .parquet, s3://BUCKET/PREFIX; none: as before"
    )
    add("input", nargs="*", metavar="INPUT", help=what)
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="results: .jsonl, .csv or .parquet")
    add("--model", metavar="NAME", help="the model (default: the only one)")
    add("--url", help=f"where the service listens ({DEFAULT_URL})")
    local = "run in this process, without a service: a model's folder, or a folder of models with --model"
    add("--local", type=Path, metavar="MODEL_DIR", help=local)
    add(
        "--parameters",
        type=_parse_json_object,
        default={},
        metavar="JSON",
        help="of each job that has none, such as '{\"top_k\": 1}'",
    )
    add(
        "--column",
        metavar="NAME",
        help="of a table: the column with paths or URLs (path, file, filename, image, url, uri)",
    )
    add("--encoding", type=_encoding, metavar="NAME", help="of a .csv that is not UTF-8, such as cp1252 (Windows)")
    add("--retry-failed", action="store_true", help="run the lines that failed again, and put their new rows in place")
    most = f"jobs in flight at most ({DEFAULT_MAX_IN_FLIGHT}); fewer while the service says 429 or 503"
    add(
        "--max-in-flight",
        type=arguments.int_between(1, MAX_IN_FLIGHT_LIMIT),
        default=DEFAULT_MAX_IN_FLIGHT,
        metavar="N",
        help=most,
    )
    add("--status", action="store_true", help="tell how far the run of these results is, as JSON")
    add("--cancel", action="store_true", help="stop the run of these results, and cancel its jobs")
    add("--quiet", action="store_true", help="say nothing until the end")
    return parser, run


def _encoding(text: str) -> str:
    try:
        "".encode(text)  # refuses codecs that are not of text, too
    except (LookupError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no encoding of text; allowed: cp1252, utf-16, latin-1 and the others that Python knows"
        ) from error
    return text


def _parse_json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"a JSON object, not {text[:40]}")
    return value
