"""`jitney models doctor|check|profile PATH`: the verbs, their options, and their exit codes."""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cli import arguments
from cli.models import model_paths
from cli.models.model_paths import ModelPath, ModelPathNotFound
from model_runtime.spec.model_toml import ModelError

YES, NO, NOTHING_THERE = 0, 1, 2
_PATH: Final = "an .onnx file, a version's folder, a model's folder, or a folder of models"


def main(argv: Sequence[str]) -> int:
    """The verb `models`; returns the exit code."""
    given = _parser().parse_args(argv)
    try:
        code: int = given.does(given)
    except ModelPathNotFound as error:
        print(f"jitney models: {error}", file=sys.stderr)
        return NOTHING_THERE
    except ModelError as error:
        print(f"jitney models: {error}", file=sys.stderr)
        return NO
    return code


def _doctor(given: argparse.Namespace) -> int:
    path = model_paths.find_single_model(given.path)
    if importlib.util.find_spec("onnx") is None:
        words = 'doctor reads graphs with the onnx package: pip install -e ".[models]" in the checkout'
        print(f"jitney models: {words}", file=sys.stderr)
        return NOTHING_THERE
    from cli.models.doctor.command import examine  # noqa: PLC0415 (only now is it known that onnx is there)

    answer = examine(path, given.fix, given.provider)
    print("\n".join(answer.lines))
    return YES if answer.good else NO


def _check(given: argparse.Namespace) -> int:
    from cli.models.check import check  # noqa: PLC0415 (what needs the runtime is loaded when it is used)

    return _for_each_model(given, lambda place: check(place, given.sizes, given.provider, given.tolerance, given.seed))


def _profile(given: argparse.Namespace) -> int:
    from cli.models.profile import profile  # noqa: PLC0415 (likewise)

    return _for_each_model(
        given, lambda place: profile(place, given.provider, given.seconds, given.largest, store_profile=given.keep)
    )


def _for_each_model(given: argparse.Namespace, look: Callable[[ModelPath], Any]) -> int:
    """Look at every model meant; one that is broken does not hide the others. NO where one of them is, or fails."""
    code, told = YES, []
    for place in model_paths.find_models(given.path):
        try:
            if isinstance(place, ModelError):
                raise place
            seen = look(place)
        except ModelError as error:
            code = NO
            told.append({"model": getattr(place, "title", error.file), "passed": False, "reason": str(error)})
            if not given.json:
                print(f"jitney models: {error}", file=sys.stderr)
            continue
        code = NO if getattr(seen, "reason", "") else code
        told.append(seen.as_json())
        if not given.json:
            print("\n".join(seen.lines()), flush=True)
    if given.json:
        print(json.dumps(told, indent=1))
    return code


def _parser() -> argparse.ArgumentParser:
    ends = "exit code: 0 yes, 1 no, with the reason, 2 there is nothing to look at"
    parser = argparse.ArgumentParser(
        prog="jitney models", description="Looks at model files before they are served.", epilog=ends
    )
    verbs = parser.add_subparsers(dest="what", required=True, metavar="doctor|check|profile")
    doctor = verbs.add_parser(
        "doctor", epilog=ends, help="tell whether a model can be batched; --fix writes a copy that can"
    )
    doctor.add_argument("--fix", type=Path, metavar="OUT", help="write a copy that can be batched, if that is sound")
    doctor.set_defaults(does=_doctor)
    check = verbs.add_parser("check", epilog=ends, help="prove that batching does not change a model's answers")
    check.add_argument("--sizes", type=_parse_sizes, default=(), metavar="2,3,8", help="batch sizes to try")
    check.add_argument(
        "--tolerance", type=arguments.float_between(1e-9, 1), help="largest difference that passes (0.001; FP16: 0.01)"
    )
    check.add_argument("--seed", type=int, default=7, help="of the made-up rows")
    check.set_defaults(does=_check)
    profile = verbs.add_parser("profile", epilog=ends, help="measure the latency of each batch size, and keep it")
    profile.add_argument(
        "--seconds", type=arguments.float_between(0.01, 3600), default=10.0, help="how long to measure a model (10)"
    )
    profile.add_argument("--largest", type=_parse_size, default=64, help="largest batch to measure (64)")
    profile.add_argument("--no-keep", dest="keep", action="store_false", help="do not write profile.json")
    profile.set_defaults(does=_profile)
    for verb in (doctor, check, profile):
        verb.add_argument(
            "--provider", choices=("auto", "cpu", "cuda", "tensorrt"), default="auto", help="what runs it"
        )
    for verb in (check, profile):
        verb.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("path", type=Path, metavar="PATH", help="an .onnx file, or the folder of one model")
    check.add_argument("path", type=Path, metavar="PATH", help=_PATH)
    home = Path(os.environ.get("JITNEY_MODELS_DIR") or "models")
    profile.add_argument(
        "path", type=Path, nargs="?", default=home, metavar="PATH", help=f"{_PATH} (JITNEY_MODELS_DIR)"
    )
    return parser


_parse_size = arguments.int_between(1, 4096)


def _parse_sizes(text: str) -> tuple[int, ...]:
    return tuple(_parse_size(one.strip()) for one in text.split(","))
