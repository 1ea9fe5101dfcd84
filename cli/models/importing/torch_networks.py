"""`torchvision:NAME` and `timm:NAME`: exports networks with torch.onnx, with the preprocessing of their weights."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cli.models.importing import source
from cli.models.importing.source import ImportedModel, ImportFailed, ImportRequest

OPSET: Final = 17
_FILTERS: Final = {"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"}


def fetch_torchvision(request: ImportRequest, onnx: Path) -> ImportedModel:
    """Import a classifier of torchvision.models, with its default weights. Raises ImportFailed."""
    vision = source.import_library("torchvision.models")
    source.check_network("torchvision", request.name, vision.list_models(module=vision))
    source.import_library("torch").manual_seed(source.SEED)
    weights = vision.get_model_weights(request.name).DEFAULT
    chosen = weights if request.weights == "trained" else None
    network = _build_network("torchvision", request, lambda: vision.get_model(request.name, weights=chosen))
    transforms = weights.transforms()
    image = {
        "resize": transforms.resize_size[0],
        "crop": transforms.crop_size[0],
        "filter": _resize_filter(transforms.interpolation.value),
        **_normalization(transforms.mean, transforms.std),
    }
    _export(network, (3, transforms.crop_size[0], transforms.crop_size[0]), onnx)
    labels = list(weights.meta["categories"]) if request.weights == "trained" else None
    return ImportedModel(
        "image-classification", _describe_network("torchvision", request), image, {}, labels, source.notes_of(request)
    )


def fetch_timm(request: ImportRequest, onnx: Path) -> ImportedModel:
    """Import a classifier of timm by name, such as resnet18.a1_in1k. Raises ImportFailed."""
    timm = source.import_library("timm")
    data = source.import_library("timm.data")
    source.check_network("timm", request.name.partition(".")[0], timm.list_models())
    source.import_library("torch").manual_seed(source.SEED)
    network = _build_network(
        "timm", request, lambda: timm.create_model(request.name, pretrained=request.weights == "trained")
    )
    config = data.resolve_model_data_config(network)
    side = config["input_size"][-1]
    image = {
        "resize": math.floor(side / config["crop_pct"]),
        "crop": side,
        "filter": _resize_filter(config["interpolation"]),
        **_normalization(config["mean"], config["std"]),
    }
    _export(network, config["input_size"], onnx)
    subset = data.infer_imagenet_subset(network) if request.weights == "trained" else None
    info = data.ImageNetInfo(subset) if subset else None
    labels = [info.index_to_description(index) for index in range(info.num_classes())] if info else None
    return ImportedModel(
        "image-classification", _describe_network("timm", request), image, {}, labels, source.notes_of(request)
    )


def _build_network(library: str, request: ImportRequest, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # of urllib, the hub client or torch's loader
        raise ImportFailed(f"cannot load {request.name} of {library}: {source.one_line(error)}") from error


def _export(network: Any, shape: Sequence[int], onnx: Path) -> None:
    torch = source.import_library("torch")
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"], "opset_version": OPSET}
    open_batch = {"image": {0: "batch"}, "scores": {0: "batch"}}
    try:
        with warnings.catch_warnings():  # from the tracer
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (torch.zeros(1, *shape),), str(onnx), dynamic_axes=open_batch, dynamo=False, **names
            )
    except Exception as error:  # the exporter raises errors without a common base
        raise ImportFailed(f"torch cannot export it to ONNX: {source.one_line(error)}") from error


def _normalization(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return {"scale": 1 / 255, "mean": [float(part) for part in mean], "std": [float(part) for part in std]}


def _resize_filter(name: str) -> str:
    return name if name in _FILTERS else "bilinear"


def _describe_network(library: str, request: ImportRequest) -> str:
    version = source.import_library(library).__version__
    return f"{request.name} of {library} {version}, {request.weights} weights"
