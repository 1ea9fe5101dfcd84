"""Decodes the tensors of an output to NumPy arrays. NumPy is needed only here."""

from base64 import b64decode
from collections.abc import Mapping
from math import prod
from typing import Any, Final

_NUMPY: Final = {
    "BOOL": "?",
    **{f"{sign}INT{bits}": f"<{code}{bits // 8}" for sign, code in (("", "i"), ("U", "u")) for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}


def to_arrays(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a job's output as NumPy arrays by name. BF16 becomes float32; null becomes NaN.

    Submit the job with `parameters={"encoding": "base64"}` for exact values and less JSON.
    """
    return {name: to_array(tensor) for name, tensor in output["tensors"].items()}


def to_array(tensor: Mapping[str, Any]) -> Any:
    """Return one tensor as a NumPy array."""
    import numpy as np  # noqa: PLC0415 (optional)

    datatype, shape = tensor["datatype"], tensor["shape"]
    if "b64" not in tensor:
        kind = {"BYTES": "O", "BF16": "<f4"}.get(datatype) or _NUMPY[datatype]
        return np.array(tensor["data"], kind).reshape(shape)
    data = b64decode(tensor["b64"])
    if datatype == "BYTES":
        return np.array(_read_texts(data, prod(shape)), "O").reshape(shape)
    if datatype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(data, _NUMPY[datatype]).reshape(shape)


def _read_texts(data: bytes, count: int) -> list[str]:
    """Return texts that each follow their length in bytes, an unsigned integer of 32 bits."""
    texts, at = [], 0
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return texts
