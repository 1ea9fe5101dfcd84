"""Random inputs, the same in each run, for models that no files are given for: texts, rows of tables and tensors."""

import base64
import random
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final

from jobs.contract.tensors import DATATYPES, FLOATS, TEXTS, from_numbers

COUNT: Final = 8
TEXT_WORDS: Final = 12  # of a text; all have as many, so that texts share batches
WORDS: Final = ("the", "of", "in", "and", "is", "on", "by", "with", "train", "city", "river", "morning", "red", "green")

Named = list[tuple[str, Any]]


def texts() -> list[tuple[str, bytes]]:
    """Return texts of English words, in UTF-8, with their names."""
    rng = _rng()
    return [("random words", _text(rng).encode()) for _ in range(COUNT)]


def raw_tensors(spec: Mapping[str, Any], size: int) -> list[tuple[str, bytes]]:
    """Return the bytes of tensors of `size` bytes, with their names."""
    rng, datatype = _rng(), spec["datatype"]
    count = size // DATATYPES[datatype][0]
    return [(f"random {datatype} values", _tensor_bytes(rng, spec["name"], datatype, count)) for _ in range(COUNT)]


def job_inputs(card: Mapping[str, Any]) -> Named:
    """Return inputs of jobs that stay JSON, with their names; none if it is not known what the model takes."""
    rng, fields, inputs = _rng(), card.get("input_fields") or [], card["inputs"]
    if "query" in fields:
        return [("random words", {"query": _text(rng), "documents": [_text(rng)]}) for _ in range(COUNT)]
    if columns := card.get("columns"):
        datatypes = {column["name"]: column["datatype"] for column in columns}
        rows = [{name: _value(rng, datatype) for name, datatype in datatypes.items()} for _ in range(COUNT)]
        return [("random features", {"features": row}) for row in rows]
    if any(-1 in spec["shape"] for spec in inputs):
        return []
    if "row" in fields:
        row = [spec["datatype"] for spec in inputs for _ in range(prod(spec["shape"]))]
        return [("random rows", {"row": [_value(rng, datatype) for datatype in row]}) for _ in range(COUNT)]
    if "tensors" not in card["kinds"]:
        return []
    return [
        ("random tensors", {"tensors": {spec["name"]: _tensor(rng, spec) for spec in inputs}}) for _ in range(COUNT)
    ]


def _rng() -> random.Random:
    return random.Random(0)  # noqa: S311 - reproducible on purpose


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=TEXT_WORDS))


def _value(rng: random.Random, datatype: str) -> Any:
    """Draw a float from 0 to 1, a word, and only 0 or 1 for an integer, which may be an index."""
    if datatype in FLOATS:
        return rng.random()
    if datatype == TEXTS:
        return rng.choice(WORDS)
    return rng.random() < 0.5 if datatype == "BOOL" else rng.randrange(2)


def _tensor_bytes(rng: random.Random, name: str, datatype: str, count: int) -> bytes:
    return bytes(from_numbers(name, datatype, (count,), [_value(rng, datatype) for _ in range(count)]).data)


def _tensor(rng: random.Random, spec: Mapping[str, Any]) -> dict[str, Any]:
    shape: Sequence[int] = spec["shape"]
    data = _tensor_bytes(rng, spec["name"], spec["datatype"], prod(shape))
    return {"datatype": spec["datatype"], "shape": shape, "b64": base64.b64encode(data).decode()}
