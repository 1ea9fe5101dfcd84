"""`jitney models optimize`: parses its options, runs it, and returns the exit code."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from cli import arguments
from cli.models.errors import ModelPathNotFound
from cli.models.optimizing.options import DEFAULT_MIN_GAIN, OptimizeOptions, Precision
from model_runtime.spec.model_toml import ModelError

YES, NO, NOTHING_THERE = 0, 1, 2
_EXIT_TERMINATED: Final = 128 + signal.SIGTERM


def main(argv: Sequence[str]) -> int:
    """Run `jitney models optimize`, whose verb is argv[0], and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv[1:])
    options = _read_options(parser, args)
    from cli.models.optimizing.evaluation.loaded_version import find_model_folder  # noqa: PLC0415 (needs ONNX Runtime)
    from cli.models.optimizing.progress import Progress  # noqa: PLC0415 (needs tqdm)
    from cli.models.optimizing.run import optimize  # noqa: PLC0415 (needs onnx)

    previous = signal.signal(signal.SIGTERM, _on_sigterm)  # so that temporary files are removed
    try:
        report = optimize(find_model_folder(args.model, args.models_dir), options, Progress(quiet=args.json))
    except (ModelPathNotFound, ModelError) as error:
        if args.json:
            print(json.dumps({"model": args.model, "reason": str(error)}, indent=1))
        print(f"jitney models: {error}", file=sys.stderr)
        return NOTHING_THERE if isinstance(error, ModelPathNotFound) else NO
    except MemoryError:
        print(f"jitney models: {args.model}: not enough memory to optimize it", file=sys.stderr)
        return NO
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(json.dumps(report.as_json(), indent=1) if args.json else "\n".join(report.lines()))
    return NO if report.reason else YES


def _on_sigterm(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
    raise SystemExit(_EXIT_TERMINATED)


def _read_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> OptimizeOptions:
    precision: Precision = args.precision
    if args.calibrate is not None and precision != "int8":
        parser.error("--calibrate requires --int8; to compare on your own examples, use --validate FOLDER")
    if precision == "fp32" and not args.fold and not args.graph:
        parser.error("--no-graph leaves nothing to do: combine it with --fp16, --int8 or --fold")
    return OptimizeOptions(
        precision,
        args.calibrate,
        args.validate,
        fold=args.fold,
        graph=args.graph,
        write=args.write,
        min_agreement=args.min_agreement,
        min_gain=(0.0 if precision == "int8-weights" else DEFAULT_MIN_GAIN) if args.min_gain is None else args.min_gain,
        provider=args.provider,
        threads=args.threads,
        seconds=args.seconds if args.measure else 0.0,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitney models optimize",
        description="Build a faster version of a model, compare it with the original, and add it.",
        epilog="exit code: 0 done, 1 refused, with the reason, 2 no model found",
    )
    add = parser.add_argument
    add("model", metavar="NAME|PATH", help="a model name, a model folder, or a version folder")
    arguments.add_models_dir(parser)
    precision = parser.add_mutually_exclusive_group()
    for name, what in {
        "fp16": "16-bit weights and arithmetic; inputs are unchanged",
        "int8": "8-bit weights and activations; needs examples",
        "int8-weights": "8-bit weights, arithmetic in float: a smaller file, also for models of text and LSTMs",
    }.items():
        precision.add_argument(
            f"--{name}", dest="precision", action="store_const", const=name, default="fp32", help=what
        )
    add("--calibrate", type=Path, metavar="FOLDER", help="examples of real inputs (examples/ in the model's folder)")
    add("--fold", action="store_true", help="move image preprocessing arithmetic into the graph")
    add("--validate", type=Path, metavar="FOLDER", help="examples to compare on (half of --calibrate, or synthetic)")
    least = "refuse a version with less agreement (0.95)"
    add("--min-agreement", type=arguments.float_between(0, 1), default=0.95, metavar="SHARE", help=least)
    least = f"least multiple of throughput, or the version is refused ({DEFAULT_MIN_GAIN:g}; --int8-weights: 0, none)"
    add("--min-gain", type=arguments.float_between(0, 1000), metavar="FACTOR", help=least)
    add("--no-graph", dest="graph", action="store_false", help="do not simplify the graph")
    add("--no-measure", dest="measure", action="store_false", help="do not measure speed: the version may be slower")
    add("--no-write", dest="write", action="store_false", help="only report; add no version")
    add("--seconds", type=arguments.float_between(0.01, 3600), default=10.0, help="duration of the measurement (10)")
    arguments.add_provider(parser)
    threads = arguments.int_between(0, 1024, "as in model.toml")
    add("--threads", type=threads, default=0, help="threads per run during the measurement (as in model.toml)")
    add("--json", action="store_true", help="print JSON")
    return parser
