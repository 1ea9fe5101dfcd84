"""Check `[image]` against a model's image input, preprocess images for it, and read label files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from model_runtime.images.decode import DecodedImage, decode_image, to_array, to_pixels
from model_runtime.repository.path_checks import check_file
from model_runtime.spec.image import SIDE_LIMIT, ImageSpec
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

_PIXEL_TYPES: Final = ("UINT8", "FP16", "BF16", "FP32", "FP64")


class ImageInput:
    """The image input of a model. `spec`: `[image]` with a definite size."""

    def __init__(self, file: Path, spec: ImageSpec, inputs: Sequence[TensorSpec]) -> None:
        """Raise ModelError if `[image]` does not match the inputs. `file`: the model.toml, for messages."""
        self.tensor_spec, self.spec = _match_input(file, spec, inputs)
        self.row_shapes = {self.tensor_spec.name: _made_shape(self.spec)}

    def preprocess(self, data: bytes) -> tuple[dict[str, Array], DecodedImage]:
        """Return one array of the model's type and layout, and the decoded image. Raises Refused."""
        picture = decode_image(data, self.spec)
        if self.tensor_spec.datatype == "UINT8":
            return {self.tensor_spec.name: np.ascontiguousarray(to_pixels(picture.image, self.spec))}, picture
        array = to_array(picture.image, self.spec)
        return {self.tensor_spec.name: array.astype(DTYPES[self.tensor_spec.datatype], copy=False)}, picture


def read_labels(
    file: Path, folder: Path, key: str, name: str | None, output: TensorSpec | None = None
) -> list[str] | None:
    """Return the lines of the text file that `key` of `file` names, or else the labels of an output.

    None if there are none. Raises ModelError.
    """
    if name is None:
        return [*map(str, output.labels)] if output is not None and output.labels else None
    path = folder / name
    check_file(folder, path, key, file)
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
    except OSError as error:
        raise ModelError(path, None, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(path, None, "is not UTF-8 text") from error
    return [line.strip() for line in text.split("\n")]


def wrong_labels(file: Path, key: str, name: str | None, labels: int, what: str) -> ModelError:
    """Return the error for another number of labels than of classes. `what`: the classes that the model has."""
    where = f"{labels} labels" if name else f"the model's file has {labels} labels"
    allowed = "one line per class" if name else f"{key} = a file with one line per class"
    reason = f"{where}, but the model has {what}; allowed: {allowed}"
    return ModelError(file.parent / name if name else file, None if name else key, reason)


def _match_input(file: Path, image: ImageSpec, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ImageSpec]:
    """Return the image input, and `[image]` with a definite size. Raises ModelError if they do not match."""
    if len(inputs) != 1 or len(inputs[0].shape) != 3:
        shapes = ", ".join(f"{tensor_spec.name} {list(tensor_spec.shape)}" for tensor_spec in inputs)
        raise ModelError(
            file, "task", f"the model takes {shapes}; allowed for images: one input of 3 dimensions per row"
        )
    tensor_spec = inputs[0]
    if tensor_spec.datatype not in _PIXEL_TYPES:
        raise ModelError(file, "task", f"the image input is {tensor_spec.datatype}; allowed: {', '.join(_PIXEL_TYPES)}")
    if tensor_spec.datatype == "UINT8" and image.is_normalising:
        raise ModelError(file, "image", "the input takes unscaled UINT8 pixels; allowed: no preset, scale, mean or std")
    image = _with_size(file, image, tensor_spec)
    made = _made_shape(image)
    if not tensor_spec.fits(made):
        order = "channels, height, width" if image.layout == "NCHW" else "height, width, channels"
        reason = f"produces {list(made)} ({order}), but the input {tensor_spec.name!r} is {list(tensor_spec.shape)}"
        raise ModelError(file, "image", f"{reason}; allowed: resize, crop, color and layout that match it")
    return tensor_spec, image


def _made_shape(image: ImageSpec) -> tuple[int, ...]:
    """Return the shape of every preprocessed image. Its size must be definite."""
    height, width = image.size or (-1, -1)
    return (image.channels, height, width) if image.layout == "NCHW" else (height, width, image.channels)


def _with_size(file: Path, image: ImageSpec, tensor_spec: TensorSpec) -> ImageSpec:
    if image.size is not None:
        return image
    if image.resize is not None:
        raise ModelError(
            file,
            "image.resize",
            "the shorter side alone does not determine the size; allowed: add crop, or [height, width]",
        )
    height, width = tensor_spec.shape[1:] if image.layout == "NCHW" else tensor_spec.shape[:2]
    if not (1 <= height <= SIDE_LIMIT and 1 <= width <= SIDE_LIMIT):
        raise ModelError(file, "image.resize", "missing, and the model's input size is free; allowed: [height, width]")
    return image.model_copy(update={"resize": (height, width)})
