"""`jitney models doctor|check|profile`: parses the options, runs the verb, and returns the exit code."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cli import arguments
from cli.extras import missing_packages
from cli.models.errors import ModelPathNotFound
from model_runtime.spec.model_toml import ModelError

if TYPE_CHECKING:
    from cli.models.model_paths import ModelPath

YES, NO, NOTHING_THERE = 0, 1, 2
_PATH: Final = "an .onnx file, a version folder, a model folder, or a folder of models"


def main(argv: Sequence[str]) -> int:
    """Run one of the verbs and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.command(args)
    except ModelPathNotFound as error:
        print(f"jitney models: {error}", file=sys.stderr)
        return NOTHING_THERE
    except ModelError as error:
        print(f"jitney models: {error}", file=sys.stderr)
        return NO
    return code


def _doctor(args: argparse.Namespace) -> int:
    from cli.models.model_paths import find_single_model  # noqa: PLC0415 (needs numpy)

    path = args.path if args.path.is_file() else find_single_model(args.path).onnx
    if hint := missing_packages("models", "onnx"):
        print(f"jitney models: doctor {hint}", file=sys.stderr)
        return NOTHING_THERE
    from cli.models.doctor import examine  # noqa: PLC0415 (needs onnx)
    from model_runtime.repository.onnx_file import read_metadata  # noqa: PLC0415 (as above)
    from model_runtime.spec.metadata_defaults import describe_metadata  # noqa: PLC0415 (needs numpy)

    result = examine(path, args.fix, args.provider, dict(args.shape))
    said = describe_metadata(read_metadata(path))
    print("\n".join([*result.lines, *([f"  its metadata has {said}"] if said else [])]))
    return YES if result.good else NO


def _check(args: argparse.Namespace) -> int:
    from cli.models.check import check  # noqa: PLC0415 (needs ONNX Runtime)

    return _for_each_model(args, lambda place: check(place, args.sizes, args.provider, args.tolerance, args.seed))


def _profile(args: argparse.Namespace) -> int:
    from cli.models.profile import profile  # noqa: PLC0415 (as above)

    return _for_each_model(
        args, lambda place: profile(place, args.provider, args.seconds, args.largest, store_profile=args.keep)
    )


def _for_each_model(args: argparse.Namespace, inspect: Callable[["ModelPath"], Any]) -> int:
    """Inspect and report every model; return NO if any of them is broken or fails."""
    from cli.models.model_paths import find_models  # noqa: PLC0415 (needs numpy)

    code, reports = YES, []
    for place in find_models(args.path):
        try:
            if isinstance(place, ModelError):
                raise place
            result = inspect(place)
        except ModelError as error:
            code = NO
            reports.append({"model": getattr(place, "title", error.file), "passed": False, "reason": str(error)})
            if not args.json:
                print(f"jitney models: {error}", file=sys.stderr)
            continue
        code = NO if getattr(result, "reason", "") else code
        reports.append(result.as_json())
        if not args.json:
            print("\n".join(result.lines()), flush=True)
    if args.json:
        print(json.dumps(reports, indent=1))
    return code


def _parser() -> argparse.ArgumentParser:
    exit_codes = "exit code: 0 yes, 1 no, with the reason, 2 no model found"
    parser = argparse.ArgumentParser(
        prog="jitney models", description="Inspect model files before they are served.", epilog=exit_codes
    )
    verbs = parser.add_subparsers(dest="what", required=True, metavar="doctor|check|profile")
    doctor = verbs.add_parser(
        "doctor", epilog=exit_codes, help="diagnose whether a model can be batched; --fix writes a fixed copy"
    )
    doctor.add_argument("--fix", type=Path, metavar="OUT", help="write a copy that can be batched, if possible")
    doctor.add_argument(
        "--shape",
        type=_parse_shape,
        action="append",
        default=[],
        metavar="NAME=3x224x224",
        help="shape of one item of an input with free dimensions, without the batch dimension",
    )
    doctor.set_defaults(command=_doctor)
    check = verbs.add_parser("check", epilog=exit_codes, help="test that batching does not change outputs")
    check.add_argument("--sizes", type=_parse_sizes, default=(), metavar="2,3,8", help="batch sizes to try")
    check.add_argument(
        "--tolerance", type=arguments.float_between(1e-9, 1), help="largest allowed difference (0.001; FP16: 0.01)"
    )
    check.add_argument("--seed", type=int, default=7, help="seed of the synthetic rows (7)")
    check.set_defaults(command=_check)
    profile = verbs.add_parser("profile", epilog=exit_codes, help="measure and store the latency of each batch size")
    seconds = arguments.float_between(0.01, 3600)
    profile.add_argument("--seconds", type=seconds, default=10.0, help="duration of the measurement of a model (10)")
    profile.add_argument("--largest", type=_parse_size, default=64, help="largest batch to measure (64)")
    profile.add_argument("--no-keep", dest="keep", action="store_false", help="do not write profile.json")
    profile.set_defaults(command=_profile)
    for verb in (doctor, check, profile):
        arguments.add_provider(verb)
    for verb in (check, profile):
        verb.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("path", type=Path, metavar="PATH", help="an .onnx file, or a model folder")
    check.add_argument("path", type=Path, metavar="PATH", help=_PATH)
    where, text = arguments.models_dir(), f"{_PATH} (JITNEY_MODELS_DIR)"
    profile.add_argument("path", type=Path, nargs="?", default=where, metavar="PATH", help=text)
    return parser


_parse_size = arguments.int_between(1, 4096)


def _parse_sizes(text: str) -> tuple[int, ...]:
    return tuple(_parse_size(part.strip()) for part in text.split(","))


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not all(size.isdecimal() and int(size) > 0 for size in sizes.split("x")):
        message = f"{text!r} is not NAME=SIZExSIZE, such as images=3x320x320"
        raise argparse.ArgumentTypeError(message)
    return name, tuple(int(size) for size in sizes.split("x"))
