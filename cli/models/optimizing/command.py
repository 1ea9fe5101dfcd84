"""`jitney models optimize NAME|PATH`: its options, its exit codes."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from cli import arguments
from cli.models.model_paths import ModelPathNotFound
from cli.models.optimizing.evaluation.loaded_version import find_model_folder
from cli.models.optimizing.options import DEFAULT_MIN_GAIN, MIN_EXAMPLES, OptimizeOptions, Precision
from cli.models.optimizing.progress import Progress
from cli.models.optimizing.run import optimize
from model_runtime.spec.model_toml import ModelError

YES, NO, NOTHING_THERE = 0, 1, 2
_EXIT_TERMINATED: Final = 128 + signal.SIGTERM


def main(argv: Sequence[str]) -> int:
    """The verb; returns its exit code."""
    parser = _parser()
    given = parser.parse_args(argv)
    wishes = _read_options(parser, given)
    before = signal.signal(signal.SIGTERM, _on_sigterm)  # so that what was begun is undone
    try:
        report = optimize(find_model_folder(given.model, given.models_dir), wishes, Progress(quiet=given.json))
    except (ModelPathNotFound, ModelError) as error:
        if given.json:
            print(json.dumps({"model": given.model, "reason": str(error)}, indent=1))
        print(f"jitney models: {error}", file=sys.stderr)
        return NOTHING_THERE if isinstance(error, ModelPathNotFound) else NO
    except MemoryError:
        print(f"jitney models: {given.model}: there is not enough memory to optimize it here", file=sys.stderr)
        return NO
    finally:
        signal.signal(signal.SIGTERM, before)
    print(json.dumps(report.as_json(), indent=1) if given.json else "\n".join(report.lines()))
    return NO if report.reason else YES


def _on_sigterm(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal's
    raise SystemExit(_EXIT_TERMINATED)


def _read_options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> OptimizeOptions:
    precision: Precision = "int8" if given.int8 else "fp16" if given.fp16 else "fp32"
    if given.int8 and given.calibrate is None:
        least = f"a folder of {MIN_EXAMPLES} examples or more, as callers will send them"
        parser.error(f"--int8 needs --calibrate FOLDER: {least} (images; for a model of tensors .npz files)")
    if given.calibrate is not None and not given.int8:
        parser.error("--calibrate goes with --int8; to judge by a folder of your own: --validate FOLDER")
    if precision == "fp32" and not given.fold and not given.graph:
        parser.error("with --no-graph nothing is left to do; allowed beside it: --fp16, --int8, --fold")
    return OptimizeOptions(
        precision,
        given.calibrate,
        given.validate,
        fold=given.fold,
        graph=given.graph,
        write=given.write,
        min_agreement=given.min_agreement,
        min_gain=given.min_gain,
        provider=given.provider,
        threads=given.threads,
        seconds=given.seconds if given.measure else 0.0,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitney models optimize",
        description="Makes a faster version of a model, compares it with the one it is made from, and adds it.",
        epilog="exit code: 0 done, 1 not, with the reason, 2 there is nothing to optimize",
    )
    parser.add_argument("model", metavar="NAME|PATH", help="a model's name or folder, or a version's folder")
    home = Path(os.environ.get("JITNEY_MODELS_DIR") or "models")
    parser.add_argument(
        "--models-dir", type=Path, default=home, metavar="DIR", help="where NAME is (JITNEY_MODELS_DIR)"
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="weights and arithmetic of 16 bits; inputs stay")
    precision.add_argument("--int8", action="store_true", help="weights and activations of 8 bits; needs --calibrate")
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="examples of what callers send")
    parser.add_argument("--fold", action="store_true", help="the image pipeline's arithmetic into the graph")
    parser.add_argument(
        "--validate", type=Path, metavar="FOLDER", help="examples to judge by (half of --calibrate, or made-up ones)"
    )
    parser.add_argument(
        "--min-agreement",
        type=arguments.float_between(0, 1),
        default=0.95,
        metavar="SHARE",
        help="or it is refused (0.95)",
    )
    parser.add_argument(
        "--min-gain",
        type=arguments.float_between(0, 1000),
        default=DEFAULT_MIN_GAIN,
        metavar="FACTOR",
        help=f"refuse a version below this times the throughput of the present one ({DEFAULT_MIN_GAIN:g}; 0: none)",
    )
    parser.add_argument("--no-graph", dest="graph", action="store_false", help="do not simplify the graph")
    parser.add_argument(
        "--no-measure", dest="measure", action="store_false", help="write it unmeasured: it may be slower"
    )
    parser.add_argument("--no-write", dest="write", action="store_false", help="only tell; add no version")
    parser.add_argument(
        "--seconds", type=arguments.float_between(0.01, 3600), default=10.0, help="how long to measure (10)"
    )
    parser.add_argument("--provider", choices=("auto", "cpu", "cuda", "tensorrt"), default="auto", help="what runs it")
    parser.add_argument(
        "--threads",
        type=arguments.int_between(0, 1024, "model.toml's"),
        default=0,
        help="of a run, while it is measured (model.toml's)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
