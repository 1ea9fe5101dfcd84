"""`jitney models import SOURCE`: its options, its sources, and what it says."""

import argparse
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cli.models.importing.folder import import_model
from cli.models.importing.source import Fetch, ImportFailed, ImportRequest
from model_runtime.spec.model_toml import ModelError

IMPORTED, NOT = 0, 1


class ImportSource(NamedTuple):
    """`module`, `function`: who fetches; `needs`: packages, which the extra of the source's name brings."""

    module: str
    function: str
    needs: tuple[str, ...]
    example: str


IMPORT_SOURCES: Final = {
    "keras": ImportSource("keras_networks", "fetch", ("keras", "torch", "onnxscript"), "keras:ResNet50"),
    "torchvision": ImportSource(
        "torch_networks", "fetch_torchvision", ("torchvision", "torch"), "torchvision:resnet50"
    ),
    "timm": ImportSource("torch_networks", "fetch_timm", ("timm", "torch"), "timm:resnet18.a1_in1k"),
    "hf": ImportSource("huggingface", "fetch", ("huggingface_hub",), "hf:OWNER/NAME@REVISION"),
}


def main(argv: Sequence[str]) -> int:
    """The verb `import`; returns the exit code."""
    given = _parser().parse_args(argv)
    try:
        fetch, wanted = _source(given)
        name = given.name or _model_name(wanted.name)
        place, said = import_model(fetch, wanted, given.models_dir, name, as_it_is=given.as_it_is)
    except ImportFailed as error:
        print(f"jitney models import: {error}", file=sys.stderr)
        return NOT
    except ModelError as error:
        print(f"jitney models import: {error.reason}", file=sys.stderr)
        return NOT
    except OSError as error:
        print(f"jitney models import: {given.models_dir} can not be written: {error.strerror}", file=sys.stderr)
        return NOT
    print("\n".join([f"{place}: imported", *(f"  {line}" for line in said)]))
    return IMPORTED


def _source(given: argparse.Namespace) -> tuple[Fetch, ImportRequest]:
    kind, colon, name = given.source.partition(":")
    wanted = ImportRequest(name, given.weights, given.file, given.preset)
    if Path(given.source).is_file():
        kind, wanted = "local", wanted._replace(name=given.source)
        origin = ImportSource("local", "fetch", (), "")
    elif colon and kind in IMPORT_SOURCES:
        origin = IMPORT_SOURCES[kind]
        _require_packages(kind, origin.needs)
    else:
        known = ", ".join(origin.example for origin in IMPORT_SOURCES.values())
        raise ImportFailed(f"{given.source[:80]!r} is no file and no source; allowed: a path to an .onnx file, {known}")
    found: Fetch = getattr(importlib.import_module(f"cli.models.importing.{origin.module}"), origin.function)
    return found, wanted


def _require_packages(extra: str, packages: Sequence[str]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportFailed(f'needs {", ".join(missing)}: pip install -e ".[{extra}]" in the checkout')


def _model_name(source: str) -> str:
    """A network's or a file's name, as a model may be called."""
    base = source.partition("@")[0].rpartition("/")[2].removesuffix(".onnx")
    return re.sub(r"[^A-Za-z0-9._-]", "-", base).strip("-._").lower()[:64]


def _parser() -> argparse.ArgumentParser:
    examples = ", ".join(origin.example for origin in IMPORT_SOURCES.values())
    parser = argparse.ArgumentParser(
        prog="jitney models import",
        description="Makes a complete model folder of a network from elsewhere.",
        epilog="exit code: 0 imported, 1 not, with the reason; nothing half-written is left",
    )
    parser.add_argument("source", metavar="SOURCE", help=f"a path to an .onnx file, or {examples}")
    parser.add_argument("--name", help="what it is called here (by default the network's own name, in small letters)")
    home = Path(os.environ.get("JITNEY_MODELS_DIR") or "models")
    parser.add_argument(
        "--models-dir", type=Path, default=home, metavar="DIR", help="where models lie (JITNEY_MODELS_DIR)"
    )
    parser.add_argument("--weights", choices=("trained", "random"), default="trained", help="random: to try the road")
    parser.add_argument("--file", help="hf: which of a repository's .onnx files")
    parser.add_argument("--preset", choices=("torch", "tf", "caffe"), help="a local file: how its images are made")
    parser.add_argument("--as-it-is", action="store_true", help="also a model that can not be batched")
    return parser
