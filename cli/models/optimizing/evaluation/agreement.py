"""Compares an optimized version with the original on examples, by what the model's task makes of its outputs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from batching.collation import split_outputs, stack_items
from cli.models.optimizing.evaluation.calibration_data import Examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from jobs.contract.errors import Refused
from model_runtime.profiling import batch_consistency
from model_runtime.profiling.synthetic_inputs import Row
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import ImageSegmentation, boxes
from model_runtime.tasks.examples import Example
from model_runtime.tensor_spec import Array

MAX_OUTPUT_DIFFERENCE: Final = 0.05  # of the largest number of an output, for models without a rule of their own
MAX_ANGLE: Final = 10.0  # degrees between two embeddings
MIN_OVERLAP: Final = 0.5  # of two boxes for the same object (IoU)
MAX_SCORE_DIFFERENCE: Final = 0.2
MAX_CELL_DIFFERENCE: Final = 0.05  # cells of a mask that have another class


class Agreement(NamedTuple):
    """`share`: results that are the same, of `rows`. `drift`: the largest difference, in `unit`."""

    share: float
    drift: float
    rows: int
    what: str
    rule: str
    unit: str

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


class Comparison(NamedTuple):
    """One result of both versions: whether it is the same, and how much it differs."""

    same: bool
    difference: float


class Rule(NamedTuple):
    """How to compare one example: `compare` takes both versions and both outputs."""

    rule: str
    unit: str
    compare: Callable[["Run", "Run"], Sequence[Comparison]]


class Run(NamedTuple):
    """One example run by one version: its outputs, and the parameters that preprocessing left for postprocessing."""

    version: LoadedVersion
    outputs: Row
    parameters: dict[str, Any]


def compare_versions(
    old: LoadedVersion, new: LoadedVersion, examples: Examples, track: Callable[[Iterable[Example]], Iterable[Example]]
) -> Agreement:
    """Run both versions on one row at a time. Raises ModelError if an example does not run.

    `track` shows the progress of an iteration.
    """
    rule = _RULES.get(old.folder.spec.task, _OUTPUTS)
    compared: list[Comparison] = []
    fallback: list[Comparison] = []
    for example in track(examples.rows):
        expected, actual = _run_example(old, example), _run_example(new, example)
        compared += rule.compare(expected, actual)
        fallback += _compare_outputs(expected, actual)
    what = examples.what
    if not compared:  # nothing was detected
        rule, compared, what = _OUTPUTS, fallback, f"{what}, which show nothing that either version detects"
    share = sum(each.same for each in compared) / len(compared)
    drift = max(each.difference for each in compared)
    return Agreement(share, drift, len(compared), what, rule.rule, rule.unit)


def _run_example(version: LoadedVersion, example: Example) -> Run:
    try:
        row, parameters = example.prepare(version.task)
        return Run(version, split_outputs(version.engine.run(stack_items([row])), 1)[0], parameters)
    except MemoryError:
        raise
    except Exception as error:  # a custom task may raise anything
        raise ModelError(version.folder.onnx, None, f"an example does not run: {error}") from error


def _compare_outputs(expected: Run, actual: Run) -> Sequence[Comparison]:
    difference = batch_consistency.relative_difference(expected.outputs, actual.outputs)
    return [Comparison(difference <= MAX_OUTPUT_DIFFERENCE, difference)]


def _compare_classes(expected: Run, actual: Run) -> Sequence[Comparison]:
    old, new = _probabilities(expected), _probabilities(actual)
    difference = float(np.abs(old - new).max())
    if not np.isfinite(difference):
        return [Comparison(same=False, difference=float("inf"))]
    return [Comparison(bool(old.argmax() == new.argmax()), difference)]


def _compare_embeddings(expected: Run, actual: Run) -> Sequence[Comparison]:
    """Compare by the angle between the vectors; two zero vectors are the same."""
    name = expected.version.folder.spec.embedding.output or expected.version.engine.outputs[0].name
    old, new = (run.outputs[name].ravel().astype(np.float64) for run in (expected, actual))
    if np.array_equal(old, new):
        return [Comparison(same=True, difference=0.0)]
    lengths = np.linalg.norm(old) * np.linalg.norm(new)
    cosine = float(old @ new / lengths) if lengths else float("nan")
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) if np.isfinite(cosine) else float("inf")
    return [Comparison(angle <= MAX_ANGLE, angle)]


def _compare_detections(expected: Run, actual: Run) -> Sequence[Comparison]:
    """Match each detection of either version with one of the other; scores may differ around the threshold."""
    threshold = expected.version.task.spec.detection.score_threshold
    old, new = (_detections(run, max(0.0, threshold - MAX_SCORE_DIFFERENCE)) for run in (expected, actual))
    compared = [_match(detection, new) for detection in old if detection["score"] >= threshold]
    return compared + [
        missing for detection in new if detection["score"] >= threshold and not (missing := _match(detection, old)).same
    ]


def _detections(run: Run, threshold: float) -> list[dict[str, Any]]:
    try:
        detections = run.version.task.postprocess(run.outputs, run.parameters | {"score_threshold": threshold})
    except Exception as error:
        raise ModelError(run.version.folder.onnx, None, f"an example has no result: {error}") from error
    found: list[dict[str, Any]] = detections["detections"]
    return found


def _compare_masks(expected: Run, actual: Run) -> Sequence[Comparison]:
    """Compare the classes of the cells of the model's output."""
    old, new = (_class_map(run) for run in (expected, actual))
    difference = float((old != new).mean()) if old.shape == new.shape else 1.0
    return [Comparison(difference <= MAX_CELL_DIFFERENCE, difference)]


def _class_map(run: Run) -> Array:
    task = run.version.task
    assert isinstance(task, ImageSegmentation)  # noqa: S101 (by the task of model.toml)
    try:
        return task.class_map(run.outputs)
    except Refused as error:
        raise ModelError(run.version.folder.onnx, None, f"an example has no result: {error}") from error


def _match(detection: dict[str, Any], others: Sequence[dict[str, Any]]) -> Comparison:
    """Compare a detection with the one of the same class that overlaps it most."""
    same_class = [other for other in others if other["index"] == detection["index"]]
    if not same_class:
        return Comparison(same=False, difference=detection["score"])
    overlaps = boxes.overlaps(_corners([detection])[0], _corners(same_class))
    best = int(overlaps.argmax())
    if overlaps[best] < MIN_OVERLAP:
        return Comparison(same=False, difference=detection["score"])
    difference = abs(same_class[best]["score"] - detection["score"])
    return Comparison(difference <= MAX_SCORE_DIFFERENCE, difference)


def _corners(detections: Sequence[dict[str, Any]]) -> Array:
    sides = [[each["box"][name] for name in ("x", "y", "width", "height")] for each in detections]
    left_top_size = np.array(sides, np.float64)
    return np.concatenate([left_top_size[:, :2], left_top_size[:, :2] + left_top_size[:, 2:]], axis=1)


def _probabilities(run: Run) -> Array:
    numbers: Array = run.outputs[run.version.engine.outputs[0].name].ravel().astype(np.float64)
    if run.version.task.spec.classification.softmax:
        powers = np.exp(numbers - numbers.max())
        numbers = powers / powers.sum()
    return numbers


_OUTPUTS: Final = Rule(
    f"every output within {MAX_OUTPUT_DIFFERENCE:g} of its largest number",
    "of the largest number of an output",
    _compare_outputs,
)
_RULES: Final = {
    "image-classification": Rule("the same first label", "of a probability", _compare_classes),
    "image-embedding": Rule(f"an angle of at most {MAX_ANGLE:g} degrees", "degrees", _compare_embeddings),
    "object-detection": Rule(
        f"a detection of the same class in the same place (IoU {MIN_OVERLAP:g}), "
        f"with a score within {MAX_SCORE_DIFFERENCE:g}",
        "of a score",
        _compare_detections,
    ),
    "image-segmentation": Rule(
        f"the same class for {1 - MAX_CELL_DIFFERENCE:.0%} of the output's cells", "of the cells", _compare_masks
    ),
}
