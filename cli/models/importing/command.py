"""`jitney models import`: parses its options, selects the source, and prints the result."""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cli import arguments
from cli.extras import missing_packages
from cli.models.importing.source import Fetch, ImportFailed, ImportRequest
from model_runtime.spec.model_toml import ModelError
from model_runtime.spec.text import TEXT_TASKS

IMPORTED, NOT = 0, 1


class ImportSource(NamedTuple):
    """A source: the function that fetches a model, and the packages it needs (the extra of the same name)."""

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
    "hf": ImportSource("huggingface", "fetch_repository", ("huggingface_hub",), "hf:OWNER/NAME@REVISION"),
}


def main(argv: Sequence[str]) -> int:
    """Run `jitney models import`, whose verb is argv[0], and return its exit code."""
    args = _parser().parse_args(argv[1:])
    from cli.models.importing.folder import import_model  # noqa: PLC0415 (needs onnx, which `--help` does not)

    try:
        fetch, request = _select_source(args)
        name = args.name or _model_name(request.name)
        folder, notes = import_model(fetch, request, args.models_dir, name, as_it_is=args.as_it_is)
    except ImportFailed as error:
        print(f"jitney models import: {error}", file=sys.stderr)
        return NOT
    except ModelError as error:
        print(f"jitney models import: {error.reason}", file=sys.stderr)
        return NOT
    except OSError as error:
        print(f"jitney models import: {args.models_dir} cannot be written: {error.strerror}", file=sys.stderr)
        return NOT
    print("\n".join([f"{folder}: imported", *(f"  {line}" for line in notes)]))
    return IMPORTED


def _select_source(args: argparse.Namespace) -> tuple[Fetch, ImportRequest]:
    kind, colon, name = args.source.partition(":")
    request = ImportRequest(name, args.weights, args.file, args.preset, args.task)
    if Path(args.source).is_file():
        request, source = request._replace(name=args.source), ImportSource("local_file", "fetch", (), "")
    elif Path(args.source).is_dir():
        request, source = request._replace(name=args.source), ImportSource("huggingface", "fetch_folder", (), "")
    elif colon and kind in IMPORT_SOURCES:
        source = IMPORT_SOURCES[kind]
        if hint := missing_packages(kind, *source.needs):
            raise ImportFailed(hint)
    else:
        known = ", ".join(source.example for source in IMPORT_SOURCES.values())
        raise ImportFailed(
            f"{args.source[:80]!r} is neither a path nor a source; allowed: an .onnx file, a folder, {known}"
        )
    fetch: Fetch = getattr(importlib.import_module(f"cli.models.importing.{source.module}"), source.function)
    return fetch, request


def _model_name(source: str) -> str:
    """Derive a valid model name from the name of a network or file."""
    base = source.partition("@")[0].rstrip("/").rpartition("/")[2].removesuffix(".onnx")
    return re.sub(r"[^A-Za-z0-9._-]", "-", base).strip("-._").lower()[:64]


def _parser() -> argparse.ArgumentParser:
    examples = ", ".join(source.example for source in IMPORT_SOURCES.values())
    parser = argparse.ArgumentParser(
        prog="jitney models import",
        description="Create a complete model folder from a file or a model library.",
        epilog="exit code: 0 imported, 1 failed, with the reason; a failed import leaves no files",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help=f"a path to an .onnx file, to a folder of Hugging Face, or {examples}"
    )
    parser.add_argument("--name", help="name of the model (default: the name of the network, in lowercase)")
    arguments.add_models_dir(parser)
    parser.add_argument("--weights", choices=("trained", "random"), default="trained", help="random: only for tests")
    parser.add_argument("--file", help="hf, folder: the .onnx file of the repository")
    tasks = (*TEXT_TASKS, "tensor")
    parser.add_argument("--task", choices=tasks, help="hf, folder: the task, where the files do not say it")
    parser.add_argument("--preset", choices=("torch", "tf", "caffe"), help="local file: preprocessing of images")
    parser.add_argument("--as-it-is", action="store_true", help="accept a model that cannot be batched")
    return parser
