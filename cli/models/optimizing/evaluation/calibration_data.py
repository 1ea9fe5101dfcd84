"""What a model is calibrated with and judged by: pictures or tensors of the user's own, or such as are made up here.

Read again each time they are needed, so that many of them take no memory.
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
from cli.models.model_paths import ModelPathNotFound
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

MAX_EXAMPLES: Final = 500  # more tells little and takes long; they are picked evenly from all
SYNTHETIC_EXAMPLES: Final = 16

# The row of a task: two versions may prepare the same picture in two ways.
Example = Callable[[Task], Row]


class Examples(NamedTuple):
    """`what`: in words, such as "24 images of photos/". `skipped`: files that are none, a line each reason."""

    what: str
    rows: Sequence[Example]
    skipped: Sequence[str] = ()


def load_examples(
    folder: Path, served: LoadedVersion, option: str, watch: Callable[[Iterable[Path]], Iterable[Path]]
) -> Examples:
    """Every file that the model takes; raises NothingThere, and ModelError where they are too few."""
    if not folder.is_dir():
        message = f"{option} {folder}: no such folder"
        raise ModelPathNotFound(message)
    files = _sample_evenly(
        sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    )
    rows: list[Example] = []
    first: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for path in watch(files):
        try:
            rows += _image_example(path, served) if served.takes_images else _tensor_examples(path, served)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a file, or a task of the user's own, comes up with
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            reasons[reason] += 1
            first.setdefault(reason, path.name)
    skipped = [f"{count} skipped, such as {first[reason]}: {reason}" for reason, count in reasons.most_common()]
    kind = "images" if served.takes_images else "rows of .npz files"
    if len(rows) < MIN_EXAMPLES:
        allowed = f"allowed: {MIN_EXAMPLES} or more, as many as show what callers will send"
        reason = f"{len(rows)} usable {kind}; {allowed}"
        raise ModelError(folder, option, "; ".join([reason, *skipped[:3]]))
    return Examples(f"{len(rows)} {kind} of {folder}", rows, skipped)


def split_examples(all_of_them: Examples) -> tuple[Examples, Examples]:
    """Every other one, so that neither half has what comes first in the folder."""
    halves = (all_of_them.rows[::2], all_of_them.rows[1::2])
    one, other = (Examples(f"{len(half)} of the {all_of_them.what}", half) for half in halves)
    return one._replace(skipped=all_of_them.skipped), other


def make_synthetic_examples(served: LoadedVersion) -> Examples:
    """Where nobody gave any: the same for the same model. Raises ModelError where it takes none of them."""
    if served.takes_images:
        random = np.random.default_rng(SEED)
        pictures = [_synthetic_image(random) for _ in range(SYNTHETIC_EXAMPLES)]
        rows: list[Example] = [partial(_preprocessed_row, data=data) for data in pictures]
        return Examples(f"{SYNTHETIC_EXAMPLES} made-up images", rows)
    try:
        made = synthetic_inputs.make_rows(
            served.engine.inputs, SYNTHETIC_EXAMPLES, SEED, lambda row: served.engine.run(stack_items([row]))
        )
    except RunFailed as error:
        reason = f"made-up rows do not run: {error}; allowed: --validate FOLDER with rows that do"
        raise ModelError(served.folder.onnx, None, reason) from error
    return Examples(f"{SYNTHETIC_EXAMPLES} made-up rows", [partial(_unchanged_row, row) for row in made.rows])


def _sample_evenly(files: Sequence[Path]) -> Sequence[Path]:
    if len(files) <= MAX_EXAMPLES:
        return files
    return [files[at * len(files) // MAX_EXAMPLES] for at in range(MAX_EXAMPLES)]


def _image_example(path: Path, served: LoadedVersion) -> list[Example]:
    with path.open("rb") as file:
        if detect_format(file.read(64)) is None:
            message = "not an image"
            raise ValueError(message)
    example = partial(_file_example, path)
    example(served.task)
    return [example]


def _file_example(path: Path, task: Task) -> Row:
    return _preprocessed_row(task, path.read_bytes())


def _preprocessed_row(task: Task, data: bytes) -> Row:
    return dict(task.preprocess("image", data, {}))


def _unchanged_row(row: Row, task: Task) -> Row:  # noqa: ARG001 - tensors are every task's alike
    return row


def _tensor_examples(path: Path, served: LoadedVersion) -> list[Example]:
    """One row or many of an .npz file with an array for each input."""
    if path.suffix != ".npz":
        message = "not an .npz file with an array for each input, which is what a model of tensors is calibrated with"
        raise ValueError(message)
    with np.load(path, allow_pickle=False) as arrays:
        found = {port.name: arrays[port.name] for port in served.engine.inputs if port.name in arrays}
    batches: Row = {}
    for port in served.engine.inputs:
        wanted = f"expected {port.name!r}, {port.datatype} of shape {list(port.shape)} or many of them"
        if port.name not in found:
            raise ValueError(wanted)
        array = found[port.name]
        batch = array[np.newaxis] if port.fits(array.shape) else array
        if array.dtype != DTYPES[port.datatype] or not port.fits(batch.shape[1:]):
            message = f"{wanted}, got {array.dtype} of shape {list(array.shape)}"
            raise ValueError(message)
        batches[port.name] = batch
    count = min(len(batch) for batch in batches.values())
    return [partial(_unchanged_row, {name: batch[at] for name, batch in batches.items()}) for at in range(count)]


def _synthetic_image(random: np.random.Generator) -> bytes:
    """Blots of colour, smooth as photographs are."""
    blots = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    blots.resize((320, 320), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
