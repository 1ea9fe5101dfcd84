"""Parts of answers that several tasks share: probabilities of scores, labels, vectors, and their parameters."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value
from model_runtime.spec.text import Activation
from model_runtime.tensor_spec import Array

VECTOR_ENCODINGS: Final = ("float", "base64")


def softmax(scores: Array) -> Array:
    """Return the probabilities for scores along the last dimension."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity: the caller checks for NaN
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def activate(scores: Array, activation: Activation) -> Array:
    """Return the probabilities for scores, along the last dimension."""
    if activation == "softmax":
        return softmax(scores)
    if activation == "sigmoid":
        probabilities: Array = 0.5 * (1 + np.tanh(0.5 * scores))  # without overflow
        return probabilities
    return scores


def check_finite(numbers: Array, what: str) -> None:
    """Raise Refused("inference_failed") for NaN or infinity. `what` names the input, such as "image"."""
    if not np.isfinite(numbers).all():
        raise Refused("inference_failed", f"the model's output for this {what} is not a number")


def read_top_k(parameters: Mapping[str, Any], default: int, classes: int | None) -> int:
    """Return the parameter `top_k`. `classes`: how many there are, None if it is unknown. Raises Refused."""
    top_k = parameters.get("top_k", default)
    is_number = isinstance(top_k, int) and not isinstance(top_k, bool)
    if is_number and top_k >= 1 and ("top_k" not in parameters or classes is None or top_k <= classes):
        return int(top_k)
    allowed = f"a whole number from 1 to {classes or 'the number of classes'}"
    shown = top_k if isinstance(top_k, int | float) else f"a {type(top_k).__name__}"
    raise Refused("invalid_request", f"parameter 'top_k' is {shown}; allowed: {allowed}")


def best_predictions(numbers: Array, labels: Sequence[str] | None, top_k: int) -> list[dict[str, Any]]:
    """Return label, index and probability, rounded to 6 digits, of the largest numbers; an index is its own label."""
    known = labels or ()
    return [
        {
            "label": known[index] if index < len(known) else str(index),
            "index": int(index),
            "probability": round(float(numbers[index]), 6),
        }
        for index in np.argsort(-numbers, kind="stable")[:top_k].tolist()
    ]


def read_choice(parameters: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str:
    """Return a parameter that is one of `allowed`; the first one is the default. Raises Refused."""
    value = parameters.get(name, allowed[0])
    if value not in allowed:
        message = f"parameter {name!r} is {describe_value(value)}; allowed: {', '.join(allowed)}"
        raise Refused("invalid_request", message)
    return str(value)


def read_number(
    parameters: Mapping[str, Any], name: str, default: float, low: float, high: float, *, is_whole: bool = False
) -> float:
    """Return a parameter that is a number from `low` to `high`. Raises Refused."""
    value = parameters.get(name, default)
    is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    if is_number and low <= value <= high:
        return float(value)
    what = "a whole number" if is_whole else "a number"
    message = f"parameter {name!r} is {describe_value(value)}; allowed: {what} from {low} to {high}"
    raise Refused("invalid_request", message)


def to_embedding(values: Array, encoding: str, what: str, *, normalize: bool) -> dict[str, Any]:
    """Return the answer of a vector, with all digits of float32: numbers, or base64 of its little-endian bytes.

    Raises Refused("inference_failed") for NaN, and for zeros that cannot be normalized. `what` names the input.
    """
    vector = values.ravel().astype(np.float32)
    if normalize:
        length = np.linalg.norm(vector.astype(np.float64))
        if length == 0:
            message = f"the model's output for this {what} is all zeros and cannot be normalized"
            raise Refused("inference_failed", message)
        vector = (vector / length).astype(np.float32)
    check_finite(vector, what)
    shown = base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector
    return {"embedding": shown, "dimensions": vector.size}
