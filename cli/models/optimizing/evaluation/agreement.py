"""How far a version's answers agree with those of the one it was made from."""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from batching.collation import split_outputs, stack_items
from cli.models.optimizing.evaluation.calibration_data import Example, Examples
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion
from model_runtime.profiling import batch_consistency
from model_runtime.profiling.synthetic_inputs import Row
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array

MAX_OUTPUT_DIFFERENCE: Final = (
    0.05  # of an answer's largest number: what passes for the same where there are no classes
)


class Agreement(NamedTuple):
    """`share`: of the examples that have the same answer. `drift`: the largest difference, of `unit`."""

    share: float
    drift: float
    rows: int
    what: str
    rule: str
    unit: str

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


def compare_versions(
    old: LoadedVersion, new: LoadedVersion, examples: Examples, watch: Callable[[Iterable[Example]], Iterable[Example]]
) -> Agreement:
    """Ask both, a row at a time; raises ModelError where the new one can not answer what the old one can."""
    classes = old.folder.spec.task == "image-classification"
    same, drift = 0, 0.0
    for example in watch(examples.rows):
        one, other = _run_example(old, example), _run_example(new, example)
        if classes:
            one_p, other_p = _probabilities(old, one), _probabilities(new, other)
            apart, is_same = float(np.abs(one_p - other_p).max()), bool(one_p.argmax() == other_p.argmax())
            if not np.isfinite(apart):
                apart, is_same = float("inf"), False
        else:
            apart = batch_consistency.relative_difference(one, other)
            is_same = apart <= MAX_OUTPUT_DIFFERENCE
        same += is_same
        drift = max(drift, apart)
    rule = "the same first label" if classes else f"every output within {MAX_OUTPUT_DIFFERENCE:g} of its largest number"
    unit = "a probability" if classes else "an output's largest number"
    return Agreement(same / len(examples.rows), drift, len(examples.rows), examples.what, rule, unit)


def _run_example(served: LoadedVersion, example: Example) -> Row:
    try:
        return split_outputs(served.engine.run(stack_items([example(served.task)])), 1)[0]
    except MemoryError:
        raise
    except Exception as error:  # a task of the user's own may raise anything
        raise ModelError(served.folder.onnx, None, f"an example does not run: {error}") from error


def _probabilities(served: LoadedVersion, answer: Row) -> Array:
    numbers: Array = answer[served.engine.outputs[0].name].ravel().astype(np.float64)
    if served.folder.spec.classification.softmax:
        powers = np.exp(numbers - numbers.max())
        numbers = powers / powers.sum()
    return numbers
