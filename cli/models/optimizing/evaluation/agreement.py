"""Compares the outputs of an optimized version with those of the original."""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from batching.collation import split_outputs, stack_items
from cli.models.optimizing.evaluation.calibration_data import Examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from model_runtime.profiling import batch_consistency
from model_runtime.profiling.synthetic_inputs import Row
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks.examples import Example
from model_runtime.tensor_spec import Array

MAX_OUTPUT_DIFFERENCE: Final = 0.05  # of the largest number of an output, for models without classes


class Agreement(NamedTuple):
    """`share`: examples with the same result. `drift`: the largest difference, relative to `unit`."""

    share: float
    drift: float
    rows: int
    what: str
    rule: str
    unit: str

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


def compare_versions(
    old: LoadedVersion, new: LoadedVersion, examples: Examples, track: Callable[[Iterable[Example]], Iterable[Example]]
) -> Agreement:
    """Run both versions on one row at a time. Raises ModelError if an example does not run.

    `track` shows the progress of an iteration.
    """
    classes = old.folder.spec.task == "image-classification"
    same, drift = 0, 0.0
    for example in track(examples.rows):
        expected, actual = _run_example(old, example), _run_example(new, example)
        if classes:
            expected_p, actual_p = _probabilities(old, expected), _probabilities(new, actual)
            difference = float(np.abs(expected_p - actual_p).max())
            is_same = bool(expected_p.argmax() == actual_p.argmax())
            if not np.isfinite(difference):
                difference, is_same = float("inf"), False
        else:
            difference = batch_consistency.relative_difference(expected, actual)
            is_same = difference <= MAX_OUTPUT_DIFFERENCE
        same += is_same
        drift = max(drift, difference)
    rule = "the same first label" if classes else f"every output within {MAX_OUTPUT_DIFFERENCE:g} of its largest number"
    unit = "a probability" if classes else "the largest number of an output"
    return Agreement(same / len(examples.rows), drift, len(examples.rows), examples.what, rule, unit)


def _run_example(version: LoadedVersion, example: Example) -> Row:
    try:
        return split_outputs(version.engine.run(stack_items([example(version.task)])), 1)[0]
    except MemoryError:
        raise
    except Exception as error:  # a custom task may raise anything
        raise ModelError(version.folder.onnx, None, f"an example does not run: {error}") from error


def _probabilities(version: LoadedVersion, answer: Row) -> Array:
    numbers: Array = answer[version.engine.outputs[0].name].ravel().astype(np.float64)
    if version.folder.spec.classification.softmax:
        powers = np.exp(numbers - numbers.max())
        numbers = powers / powers.sum()
    return numbers
