"""`keras:NAME`: imports networks of keras.applications, with the preprocessing of their `preprocess_input`."""

import os
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from cli.models.importing import source
from cli.models.importing.source import ImportedModel, ImportFailed, ImportRequest

# Preset of preprocess_input → module of keras.applications → its networks.
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
    "": {  # their preprocessing is in the graph
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


def fetch(request: ImportRequest, onnx: Path) -> ImportedModel:
    """Build a network with ImageNet or random weights, and export it. Raises ImportFailed."""
    source.check_network("keras", request.name, NETWORKS)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the export needs no GPU
    keras = source.import_library("keras")
    keras.utils.set_random_seed(source.SEED)
    try:
        network = getattr(keras.applications, request.name)(
            weights="imagenet" if request.weights == "trained" else None
        )
    except Exception as error:  # of urllib, h5py or Keras
        raise ImportFailed(f"cannot load the weights of {request.name}: {source.one_line(error)}") from error
    _export(network, onnx)
    height, width = network.input_shape[1:3]
    labels, notes = _labels(keras, request)
    preset = NETWORKS[request.name]
    # As in the Keras tutorial: Pillow's resize to the square, without keeping the aspect ratio.
    image: dict[str, Any] = {"preset": preset} if preset else {}
    image |= {"resize": [height, width], "filter": "bicubic", "layout": "NHWC"}
    description = f"{request.name} of keras.applications {keras.__version__}, {request.weights} weights"
    return ImportedModel("image-classification", description, image, {"softmax": False}, labels, notes)


def _export(network: Any, onnx: Path) -> None:
    network(np.zeros((1, *network.input_shape[1:]), np.float32))  # the export requires a first run
    try:
        with warnings.catch_warnings():  # from the tracer
            warnings.simplefilter("ignore")
            network.export(str(onnx), format="onnx", verbose=False)
    except Exception as error:  # torch.onnx and tf2onnx raise errors without a common base
        raise ImportFailed(f"keras cannot export it to ONNX: {source.one_line(error)}") from error


def _labels(keras: Any, request: ImportRequest) -> tuple[list[str] | None, list[str]]:
    """Return the class names of ImageNet, which Keras downloads, and notes."""
    if request.weights == "random":
        return None, source.notes_of(request)
    try:
        decoded = keras.applications.imagenet_utils.decode_predictions(np.eye(_CLASSES), top=1)
    except Exception as error:  # noqa: BLE001 (as with the weights)
        return None, [f"classes are numbered, as their names cannot be downloaded: {source.one_line(error)}"]
    return [str(best[0][1]) for best in decoded], []
