"""Read examples of a model's inputs: pictures, audio, JSON bodies of requests, and NumPy arrays.

A model's folder may have its own in `examples/`: the check, the profile and the optimizer use them first. Files are
read again for each use, so that many of them need no memory.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from jobs.contract import audio_formats, image_formats, tensors
from jobs.contract.input_fields import encode_input
from jobs.contract.job_request import JobRequest, read_json_fields
from jobs.contract.json_reader import read_json, require_object
from model_runtime.repository.host_memory import format_bytes
from model_runtime.repository.path_checks import check_file
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks.task import Task
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Row = dict[str, Array]

EXAMPLES_FOLDER: Final = "examples"
MAX_EXAMPLES: Final = 500  # more would take long for little gain; files are sampled evenly
MAX_BYTES: Final = 256 << 20  # of a file
MADE_ROWS: Final = 16  # that a task makes where the model has no examples
# kind → what finds the format of a file by its first bytes, and what it is called in messages
_FILE_KINDS: Final = {
    "image": (image_formats.detect_format, "an image"),
    "audio": (audio_formats.detect_format, "audio"),
}
_KINDS: Final = "a .json file with the input of a request, .npy or .npz files of tensors"


class Example(NamedTuple):
    """An input as a caller sends it, or a `row` of tensors. `data`: its bytes, or the file that has them.

    Of an input that has `rows`, the example is the one `at` this index.
    """

    kind: str = ""
    data: bytes | Path = b""
    parameters: Mapping[str, Any] = {}
    row: Row | None = None
    rows: int = 0
    at: int = 0

    def prepare(self, task: Task) -> tuple[Row, dict[str, Any]]:
        """Return the row as a task preprocesses it, and the parameters for `postprocess`. Raises what the task raises.

        Two versions may preprocess the same picture differently.
        """
        if self.row is not None:
            return self.row, {}
        parameters = dict(self.parameters)
        data = self.data.read_bytes() if isinstance(self.data, Path) else self.data
        if self.rows:
            return task.preprocess_rows(self.kind, data, parameters, self.rows)[self.at]
        return dict(task.preprocess(self.kind, data, parameters)), parameters

    def __call__(self, task: Task) -> Row:
        return self.prepare(task)[0]


def example_files(folder: Path) -> list[Path]:
    """Return the files of a folder and of those in it, at most MAX_EXAMPLES; hidden files are left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if len(files) <= MAX_EXAMPLES:
        return files
    return [files[index * len(files) // MAX_EXAMPLES] for index in range(MAX_EXAMPLES)]


def read_example_file(path: Path, task: Task, inputs: Sequence[TensorSpec]) -> list[Example]:
    """Return the examples of a file. Raises ValueError, Refused, OSError, or whatever a custom task raises."""
    if (size := path.stat().st_size) > MAX_BYTES:
        message = f"it has {format_bytes(size)}; allowed: {format_bytes(MAX_BYTES)}"
        raise ValueError(message)
    if path.suffix == ".json":
        examples = _json_examples(path.read_bytes(), task)
    elif kind := next((kind for kind in _FILE_KINDS if kind in task.kinds), None):
        detect, description = _FILE_KINDS[kind]
        with path.open("rb") as file:
            if detect(file.read(image_formats.HEAD_BYTES)) is None:
                message = f"not {description}"
                raise ValueError(message)
        examples = [Example(kind, path)]
    elif path.suffix in {".npy", ".npz"}:
        return [Example(row=row) for row in _array_rows(path, inputs)]
    else:
        message = f"not an example; allowed: {_KINDS}"
        raise ValueError(message)
    for example in examples:
        example(task)
    return examples


def read_own_examples(folder: Path, task: Task, inputs: Sequence[TensorSpec], count: int = MAX_EXAMPLES) -> list[Row]:
    """Return up to `count` rows of one shape of the model's own examples, or else of those that its task makes.

    Raises ModelError for a bad file.
    """
    rows = read_own_rows(folder, task, inputs, count)
    if not rows:
        return list(task.make_rows(min(count, MADE_ROWS)))
    shapes = [[array.shape for array in row.values()] for row in rows]
    return [row for row, shape in zip(rows, shapes, strict=True) if shape == shapes[0]][:count]


def read_own_rows(folder: Path, task: Task, inputs: Sequence[TensorSpec], count: int = MAX_EXAMPLES) -> list[Row]:
    """Return `count` rows or a few more of the model's examples, of any shapes. Raises ModelError for a bad file."""
    rows: list[Row] = []
    for path in example_files(folder / EXAMPLES_FOLDER):
        if len(rows) >= count:
            break
        check_file(folder, path)
        try:
            rows += [example(task) for example in read_example_file(path, task, inputs)]
        except MemoryError:
            raise
        except Exception as error:  # files and custom tasks may raise anything
            raise ModelError(path, None, f"is not an example of the model's input: {error}") from error
    return rows


def encode_request(request: JobRequest, kinds: Collection[str]) -> tuple[str, bytes]:
    """Return the kind and the bytes of a request's input, as a model of these kinds gets it. Raises Refused."""
    if request.image is not None:
        return "image", request.image
    if request.audio is not None:
        return "audio", request.audio
    if request.fields is not None:
        return "json", encode_input(request.fields)
    if request.text is not None:
        return "text", request.text
    if request.raw is not None:
        return "raw" if "raw" in kinds else "bytes", request.raw
    named = {name: _read_tensor(name, tensor) for name, tensor in (request.tensors or {}).items()}
    return "tensors", tensors.pack_tensors(named)


def _json_examples(data: bytes, task: Task) -> list[Example]:
    """Read an input, the body of a request with one, or a list of either."""
    value = read_json(data, "the file")
    examples: list[Example] = []
    for each in value if isinstance(value, list) else [value]:
        fields = require_object(each, "an example")
        request = read_json_fields(fields if "input" in fields else {"input": fields})
        kind, encoded = encode_request(request, task.kinds)
        if kind not in task.kinds:
            message = f"the model takes {' or '.join(sorted(task.kinds))}, not {kind}"
            raise ValueError(message)
        example, rows = Example(kind, encoded, request.parameters), request.rows or 0
        examples += [example._replace(rows=rows, at=at) for at in range(rows)] or [example]
    return examples


def _read_tensor(name: str, value: Any) -> tensors.Tensor:
    datatype, shape = tensors.read_tensor_header(name, value)
    return tensors.read_tensor_values(name, datatype, shape, value)


def _array_rows(path: Path, inputs: Sequence[TensorSpec]) -> list[Row]:
    """Read the rows of an .npz file with an array per input, or of an .npy file for a model of one input."""
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        arrays = dict(loaded) if path.suffix == ".npz" else {inputs[0].name: loaded}
    batches: Row = {}
    for spec in inputs:
        expected = f"expected {spec.name!r}, {spec.datatype} of shape {list(spec.shape)} or a batch of them"
        if spec.name not in arrays:
            raise ValueError(expected)
        array = arrays[spec.name]
        batch = array[np.newaxis] if spec.fits(array.shape) else array
        if array.dtype != DTYPES[spec.datatype] or not spec.fits(batch.shape[1:]):
            message = f"{expected}, got {array.dtype} of shape {list(array.shape)}"
            raise ValueError(message)
        batches[spec.name] = batch
    count = min(map(len, batches.values()))
    return [{name: batch[index] for name, batch in batches.items()} for index in range(count)]
