"""`keras:NAME`: the networks of keras.applications, prepared for as their own `preprocess_input` does."""

import difflib
import os
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from cli.models.importing.source import SEED, ImportedModel, ImportFailed, ImportRequest, import_library, one_line

# Network → the module whose preprocess_input is its own, and what that does to pixels of 0 to 255.
_FAMILIES: Final = {
    "caffe": {"resnet": "ResNet50 ResNet101 ResNet152", "vgg16": "VGG16", "vgg19": "VGG19"},
    "tf": {
        "resnet_v2": "ResNet50V2 ResNet101V2 ResNet152V2",
        "mobilenet": "MobileNet",
        "mobilenet_v2": "MobileNetV2",
        "inception_v3": "InceptionV3",
        "inception_resnet_v2": "InceptionResNetV2",
        "xception": "Xception",
        "nasnet": "NASNetMobile NASNetLarge",
    },
    "torch": {"densenet": "DenseNet121 DenseNet169 DenseNet201"},
    "": {  # theirs is in the graph
        "efficientnet": " ".join(f"EfficientNetB{n}" for n in range(8)),
        "efficientnet_v2": " ".join(f"EfficientNetV2{n}" for n in ("B0", "B1", "B2", "B3", "S", "M", "L")),
        "mobilenet_v3": "MobileNetV3Small MobileNetV3Large",
        "convnext": " ".join(f"ConvNeXt{n}" for n in ("Tiny", "Small", "Base", "Large", "XLarge")),
    },
}
NETWORKS: Final = {
    name: preset for preset, modules in _FAMILIES.items() for names in modules.values() for name in names.split()
}
_CLASSES: Final = 1000


def fetch(wanted: ImportRequest, onnx: Path) -> ImportedModel:
    """Build the network, with ImageNet's weights or random ones, and export it."""
    if wanted.name not in NETWORKS:
        near = difflib.get_close_matches(wanted.name, NETWORKS, 3, 0.4) or sorted(NETWORKS)[:5]
        raise ImportFailed(f"keras has no network {wanted.name[:80]!r} that is known here; near it: {', '.join(near)}")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # exporting needs none
    keras = import_library("keras")
    keras.utils.set_random_seed(SEED)
    try:
        network = getattr(keras.applications, wanted.name)(weights="imagenet" if wanted.weights == "trained" else None)
    except Exception as error:  # of urllib, of h5py and of its own
        raise ImportFailed(f"the weights of {wanted.name} can not be had: {one_line(error)}") from error
    _export(network, onnx)
    height, width = network.input_shape[1:3]
    labels, notes = _labels(keras, wanted)
    preset = NETWORKS[wanted.name]
    # As the classic tutorial does it: PIL's own resize, to the square, whatever the picture's proportions.
    image: dict[str, Any] = {"preset": preset} if preset else {}
    image |= {"resize": [height, width], "filter": "bicubic", "layout": "NHWC"}
    description = f"{wanted.name} of keras.applications {keras.__version__}, {wanted.weights} weights"
    return ImportedModel("image-classification", description, image, {"softmax": False}, labels, notes)


def _export(network: Any, onnx: Path) -> None:
    network(np.zeros((1, *network.input_shape[1:]), np.float32))  # one that never ran is not exported
    try:
        with warnings.catch_warnings():  # of the tracer, about its own code
            warnings.simplefilter("ignore")
            network.export(str(onnx), format="onnx", verbose=False)
    except Exception as error:  # of torch.onnx, of tf2onnx: they share no base
        raise ImportFailed(f"keras can not export it to ONNX: {one_line(error)}") from error


def _labels(keras: Any, wanted: ImportRequest) -> tuple[list[str] | None, list[str]]:
    """ImageNet's names as Keras has them, which are a file of its own to be fetched."""
    if wanted.weights == "random":
        return None, ["random weights: its answers mean nothing, and classes have numbers"]
    try:
        decoded = keras.applications.imagenet_utils.decode_predictions(np.eye(_CLASSES), top=1)
    except Exception as error:  # noqa: BLE001 (as with the weights)
        return None, [f"the names of the classes can not be had, they have numbers: {one_line(error)}"]
    return [str(best[0][1]) for best in decoded], []
