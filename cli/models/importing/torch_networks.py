"""`torchvision:NAME` and `timm:NAME`: exported by torch.onnx, prepared for as their weights say."""

import difflib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cli.models.importing.source import SEED, ImportedModel, ImportFailed, ImportRequest, import_library, one_line

OPSET: Final = 17
_FILTERS: Final = {"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"}


def fetch_torchvision(wanted: ImportRequest, onnx: Path) -> ImportedModel:
    """A classifier of torchvision.models, with its default weights."""
    vision = import_library("torchvision.models")
    _check_name("torchvision", wanted.name, vision.list_models(module=vision))
    _seed()
    weights = vision.get_model_weights(wanted.name).DEFAULT
    network = _build_network(
        "torchvision", wanted, lambda: vision.get_model(wanted.name, weights=_if_trained(wanted, weights))
    )
    how = weights.transforms()
    image = {
        "resize": how.resize_size[0],
        "crop": how.crop_size[0],
        "filter": _resize_filter(how.interpolation.value),
        **_normalization(how.mean, how.std),
    }
    _export(network, (3, how.crop_size[0], how.crop_size[0]), onnx)
    labels = list(weights.meta["categories"]) if wanted.weights == "trained" else None
    return ImportedModel(
        "image-classification", _describe_network("torchvision", wanted), image, {}, labels, _notes(wanted)
    )


def fetch_timm(wanted: ImportRequest, onnx: Path) -> ImportedModel:
    """A classifier of timm, by its name, such as resnet18.a1_in1k."""
    timm = import_library("timm")
    data = import_library("timm.data")
    _check_name("timm", wanted.name.partition(".")[0], timm.list_models())
    _seed()
    network = _build_network(
        "timm", wanted, lambda: timm.create_model(wanted.name, pretrained=wanted.weights == "trained")
    )
    how = data.resolve_model_data_config(network)
    side = how["input_size"][-1]
    image = {
        "resize": math.floor(side / how["crop_pct"]),
        "crop": side,
        "filter": _resize_filter(how["interpolation"]),
        **_normalization(how["mean"], how["std"]),
    }
    _export(network, how["input_size"], onnx)
    subset = data.infer_imagenet_subset(network) if wanted.weights == "trained" else None
    info = data.ImageNetInfo(subset) if subset else None
    labels = [info.index_to_description(at) for at in range(info.num_classes())] if info else None
    return ImportedModel("image-classification", _describe_network("timm", wanted), image, {}, labels, _notes(wanted))


def _check_name(source: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4)
        raise ImportFailed(f"{source} has no network {name[:80]!r}; near it: {', '.join(near) or ', '.join(known[:5])}")


def _build_network(source: str, wanted: ImportRequest, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # of urllib, of a hub's client, of torch's own loader
        raise ImportFailed(f"{source}'s {wanted.name} can not be had: {one_line(error)}") from error


def _if_trained(wanted: ImportRequest, weights: Any) -> Any:
    return weights if wanted.weights == "trained" else None


def _seed() -> None:
    import_library("torch").manual_seed(SEED)


def _export(network: Any, shape: Sequence[int], onnx: Path) -> None:
    torch = import_library("torch")
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"], "opset_version": OPSET}
    open_batch = {"image": {0: "batch"}, "scores": {0: "batch"}}
    try:
        with warnings.catch_warnings():  # of the tracer, about its own code
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (torch.zeros(1, *shape),), str(onnx), dynamic_axes=open_batch, dynamo=False, **names
            )
    except Exception as error:  # the exporter's errors share no base
        raise ImportFailed(f"torch can not export it to ONNX: {one_line(error)}") from error


def _normalization(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return {"scale": 1 / 255, "mean": [float(part) for part in mean], "std": [float(part) for part in std]}


def _resize_filter(name: str) -> str:
    return name if name in _FILTERS else "bilinear"


def _describe_network(source: str, wanted: ImportRequest) -> str:
    version = import_library(source).__version__
    return f"{wanted.name} of {source} {version}, {wanted.weights} weights"


def _notes(wanted: ImportRequest) -> list[str]:
    return ["random weights: its answers mean nothing, and classes have numbers"] if wanted.weights == "random" else []
