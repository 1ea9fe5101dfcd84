"""Example inputs for calibration and comparison: images or tensors from a folder, or synthetic ones.

Files are read again for each use, so that many of them need no memory.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from batching.collation import stack_items
from cli.models.errors import ModelPathNotFound
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from cli.models.optimizing.options import MIN_EXAMPLES
from jobs.contract.image_formats import detect_format
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.profiling import synthetic_inputs
from model_runtime.profiling.batch_consistency import SEED
from model_runtime.profiling.synthetic_inputs import Row
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import Task
from model_runtime.tensor_spec import DTYPES

MAX_EXAMPLES: Final = 500  # more would take long for little gain; they are sampled evenly
SYNTHETIC_EXAMPLES: Final = 16

# Preprocesses an example with a task: two versions may preprocess the same image differently.
Example = Callable[[Task], Row]


class Examples(NamedTuple):
    """`what`: a description, such as "24 images of photos/". `skipped`: unusable files, a line per reason."""

    what: str
    rows: Sequence[Example]
    skipped: Sequence[str] = ()


def load_examples(
    folder: Path, version: LoadedVersion, option: str, track: Callable[[Iterable[Path]], Iterable[Path]]
) -> Examples:
    """Load all usable files of a folder. Raises ModelPathNotFound, and ModelError if there are too few."""
    if not folder.is_dir():
        raise ModelPathNotFound(f"{option} {folder}: no such folder")
    files = _sample_evenly(
        sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    )
    rows: list[Example] = []
    first: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for path in track(files):
        try:
            rows += _image_example(path, version) if version.takes_images else _tensor_examples(path, version)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - files and custom tasks may raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            reasons[reason] += 1
            first.setdefault(reason, path.name)
    skipped = [f"{count} skipped, such as {first[reason]}: {reason}" for reason, count in reasons.most_common()]
    kind = "images" if version.takes_images else "rows of .npz files"
    if len(rows) < MIN_EXAMPLES:
        allowed = f"allowed: {MIN_EXAMPLES} or more representative ones"
        reason = f"{len(rows)} usable {kind}; {allowed}"
        raise ModelError(folder, option, "; ".join([reason, *skipped[:3]]))
    return Examples(f"{len(rows)} {kind} of {folder}", rows, skipped)


def split_examples(examples: Examples) -> tuple[Examples, Examples]:
    """Split the examples in two, alternately, so that the order in the folder does not matter."""
    halves = (examples.rows[::2], examples.rows[1::2])
    first, second = (Examples(f"{len(half)} of the {examples.what}", half) for half in halves)
    return first._replace(skipped=examples.skipped), second


def make_synthetic_examples(version: LoadedVersion) -> Examples:
    """Return reproducible synthetic examples. Raises ModelError if the model cannot run them."""
    if version.takes_images:
        random = np.random.default_rng(SEED)
        pictures = [_synthetic_image(random) for _ in range(SYNTHETIC_EXAMPLES)]
        rows: list[Example] = [partial(_preprocessed_row, data=data) for data in pictures]
        return Examples(f"{SYNTHETIC_EXAMPLES} synthetic images", rows)
    try:
        synthetic = synthetic_inputs.make_rows(
            version.engine.inputs, SYNTHETIC_EXAMPLES, SEED, lambda row: version.engine.run(stack_items([row]))
        )
    except RunFailed as error:
        reason = f"synthetic rows do not run: {error}; allowed: --validate FOLDER with rows that do"
        raise ModelError(version.folder.onnx, None, reason) from error
    return Examples(f"{SYNTHETIC_EXAMPLES} synthetic rows", [partial(_unchanged_row, row) for row in synthetic.rows])


def _sample_evenly(files: Sequence[Path]) -> Sequence[Path]:
    if len(files) <= MAX_EXAMPLES:
        return files
    return [files[index * len(files) // MAX_EXAMPLES] for index in range(MAX_EXAMPLES)]


def _image_example(path: Path, version: LoadedVersion) -> list[Example]:
    with path.open("rb") as file:
        if detect_format(file.read(64)) is None:
            raise ValueError("not an image")
    example = partial(_file_example, path)
    example(version.task)
    return [example]


def _file_example(path: Path, task: Task) -> Row:
    return _preprocessed_row(task, path.read_bytes())


def _preprocessed_row(task: Task, data: bytes) -> Row:
    return dict(task.preprocess("image", data, {}))


def _unchanged_row(row: Row, task: Task) -> Row:  # noqa: ARG001 - tensors need no preprocessing
    return row


def _tensor_examples(path: Path, version: LoadedVersion) -> list[Example]:
    """Read the rows of an .npz file with an array per input. Raises ValueError."""
    if path.suffix != ".npz":
        raise ValueError("not an .npz file with an array per input, which tensor models need")
    with np.load(path, allow_pickle=False) as arrays:
        values = {spec.name: arrays[spec.name] for spec in version.engine.inputs if spec.name in arrays}
    batches: Row = {}
    for spec in version.engine.inputs:
        expected = f"expected {spec.name!r}, {spec.datatype} of shape {list(spec.shape)} or a batch of them"
        if spec.name not in values:
            raise ValueError(expected)
        array = values[spec.name]
        batch = array[np.newaxis] if spec.fits(array.shape) else array
        if array.dtype != DTYPES[spec.datatype] or not spec.fits(batch.shape[1:]):
            raise ValueError(f"{expected}, got {array.dtype} of shape {list(array.shape)}")
        batches[spec.name] = batch
    rows = [{name: batch[index] for name, batch in batches.items()} for index in range(min(map(len, batches.values())))]
    return [partial(_unchanged_row, row) for row in rows]


def _synthetic_image(random: np.random.Generator) -> bytes:
    """Return a PNG of smooth random colours, similar to a photograph."""
    pixels = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    pixels.resize((320, 320), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
