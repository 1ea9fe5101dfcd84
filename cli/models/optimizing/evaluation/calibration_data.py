"""Example inputs for calibration and comparison: images or tensors from a folder, or synthetic ones."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from batching.collation import stack_items
from cli.models.errors import ModelPathNotFound
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from cli.models.optimizing.options import MIN_EXAMPLES
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.graph.facts import read_facts
from model_runtime.profiling.batch_consistency import SEED
from model_runtime.profiling.synthetic_inputs import RowGenerator
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks.examples import Example, example_files, read_example_file

SYNTHETIC_EXAMPLES: Final = 16

Track = Callable[[Iterable[Path]], Iterable[Path]]  # shows the progress of an iteration


class Examples(NamedTuple):
    """`what`: a description, such as "24 images of photos/". `skipped`: unusable files, a line per reason."""

    what: str
    rows: Sequence[Example]
    skipped: Sequence[str] = ()


def load_examples(
    folder: Path,
    version: LoadedVersion,
    option: str,
    track: Track,
    minimum: int = MIN_EXAMPLES,
) -> Examples:
    """Load all usable files of a folder. Raises ModelPathNotFound, and ModelError if there are too few."""
    if not folder.is_dir():
        raise ModelPathNotFound(f"{option} {folder}: no such folder")
    rows: list[Example] = []
    first: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for path in track(example_files(folder)):
        try:
            rows += read_example_file(path, version.task, version.engine.inputs)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - files and custom tasks may raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            reasons[reason] += 1
            first.setdefault(reason, path.name)
    skipped = [f"{count} skipped, such as {first[reason]}: {reason}" for reason, count in reasons.most_common()]
    kind = "images" if version.takes_images else "rows of tensors"
    if len(rows) < minimum:
        allowed = f"allowed: {minimum} or more representative ones"
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
        rows: list[Example] = [Example("image", data) for data in pictures]
        return Examples(f"{SYNTHETIC_EXAMPLES} synthetic images", rows)
    engine = version.engine
    if made := version.task.make_rows(SYNTHETIC_EXAMPLES):
        return Examples(
            f"{SYNTHETIC_EXAMPLES} synthetic {version.folder.spec.task} rows", [Example(row=row) for row in made]
        )
    try:
        generator = RowGenerator(
            engine.inputs,
            lambda row: engine.run(stack_items([row])),
            read_facts(engine.path, engine.batch_axes).heights,
            find_indices=engine.provider == "cpu",
        )
        synthetic = generator.rows(SYNTHETIC_EXAMPLES, SEED)
        engine.run(stack_items(synthetic[:1]))
    except RunFailed as error:
        reason = f"synthetic rows do not run: {error}; allowed: --validate FOLDER with rows that do"
        raise ModelError(version.folder.onnx, None, reason) from error
    return Examples(f"{SYNTHETIC_EXAMPLES} synthetic rows", [Example(row=row) for row in synthetic])


def _synthetic_image(random: np.random.Generator) -> bytes:
    """Return a PNG of smooth random colours, similar to a photograph."""
    pixels = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    pixels.resize((320, 320), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
