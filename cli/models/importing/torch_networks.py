"""`torchvision:NAME` and `timm:NAME`: exported by torch.onnx, prepared for as their weights say."""

import difflib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cli.models.importing.source import SEED, Imported, NotImported, Wanted, library, plain

OPSET: Final = 17
_FILTERS: Final = {"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"}


def fetch_torchvision(wanted: Wanted, onnx: Path) -> Imported:
    """A classifier of torchvision.models, with its default weights."""
    vision = library("torchvision.models")
    _check_name("torchvision", wanted.name, vision.list_models(module=vision))
    _seed()
    weights = vision.get_model_weights(wanted.name).DEFAULT
    network = _made("torchvision", wanted, lambda: vision.get_model(wanted.name, weights=_if_trained(wanted, weights)))
    how = weights.transforms()
    image = {
        "resize": how.resize_size[0],
        "crop": how.crop_size[0],
        "filter": _filter(how.interpolation.value),
        **_normal(how.mean, how.std),
    }
    _export(network, (3, how.crop_size[0], how.crop_size[0]), onnx)
    labels = list(weights.meta["categories"]) if wanted.weights == "trained" else None
    return Imported("image-classification", _described("torchvision", wanted), image, {}, labels, _notes(wanted))


def fetch_timm(wanted: Wanted, onnx: Path) -> Imported:
    """A classifier of timm, by its name, such as resnet18.a1_in1k."""
    timm = library("timm")
    data = library("timm.data")
    _check_name("timm", wanted.name.partition(".")[0], timm.list_models())
    _seed()
    network = _made("timm", wanted, lambda: timm.create_model(wanted.name, pretrained=wanted.weights == "trained"))
    how = data.resolve_model_data_config(network)
    side = how["input_size"][-1]
    image = {
        "resize": math.floor(side / how["crop_pct"]),
        "crop": side,
        "filter": _filter(how["interpolation"]),
        **_normal(how["mean"], how["std"]),
    }
    _export(network, how["input_size"], onnx)
    subset = data.infer_imagenet_subset(network) if wanted.weights == "trained" else None
    info = data.ImageNetInfo(subset) if subset else None
    labels = [info.index_to_description(at) for at in range(info.num_classes())] if info else None
    return Imported("image-classification", _described("timm", wanted), image, {}, labels, _notes(wanted))


def _check_name(source: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4)
        raise NotImported(f"{source} has no network {name[:80]!r}; near it: {', '.join(near) or ', '.join(known[:5])}")


def _made(source: str, wanted: Wanted, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # of urllib, of a hub's client, of torch's own loader
        raise NotImported(f"{source}'s {wanted.name} can not be had: {plain(error)}") from error


def _if_trained(wanted: Wanted, weights: Any) -> Any:
    return weights if wanted.weights == "trained" else None


def _seed() -> None:
    library("torch").manual_seed(SEED)


def _export(network: Any, shape: Sequence[int], onnx: Path) -> None:
    torch = library("torch")
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"], "opset_version": OPSET}
    open_batch = {"image": {0: "batch"}, "scores": {0: "batch"}}
    try:
        with warnings.catch_warnings():  # of the tracer, about its own code
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (torch.zeros(1, *shape),), str(onnx), dynamic_axes=open_batch, dynamo=False, **names
            )
    except Exception as error:  # the exporter's errors share no base
        raise NotImported(f"torch can not export it to ONNX: {plain(error)}") from error


def _normal(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return {"scale": 1 / 255, "mean": [float(part) for part in mean], "std": [float(part) for part in std]}


def _filter(name: str) -> str:
    return name if name in _FILTERS else "bilinear"


def _described(source: str, wanted: Wanted) -> str:
    version = library(source).__version__
    return f"{wanted.name} of {source} {version}, {wanted.weights} weights"


def _notes(wanted: Wanted) -> list[str]:
    return ["random weights: its answers mean nothing, and classes have numbers"] if wanted.weights == "random" else []
