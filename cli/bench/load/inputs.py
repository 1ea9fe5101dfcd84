"""What is sent: files, the bundled samples, or random numbers in the shape the model asks for."""

import base64
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from cli.bench.errors import CannotMeasure
from cli.bench.load.target import BUNDLED_MODEL, Target
from jobs.contract.image_formats import detect_format
from jobs.contract.tensors import DATATYPES, from_numbers

SAMPLES: Final = Path("samples") / BUNDLED_MODEL
RANDOM_INPUTS: Final = 8


class Inputs(NamedTuple):
    """Request bodies with their content types and names. `kind` is the door's word: image or raw."""

    kind: str
    bodies: list[bytes]
    content_types: list[str]
    names: list[str]

    @property
    def origin(self) -> str:
        """In a few words."""
        return " … ".join(dict.fromkeys((self.names[0], self.names[-1])))


def gather_inputs(target: Target, files: Sequence[Path]) -> Inputs:
    """Raises CannotMeasure, also for a file that the model can not take."""
    if "image" in target.card["kinds"]:
        return _image_inputs(target.model, files)
    wanted = target.card["raw_bytes"]
    if wanted is None:
        takes = ", ".join(f"{port['name']} {port['datatype']} {port['shape']}" for port in target.card["inputs"])
        reason = "measured are models that take an image or one tensor of a fixed shape"
        raise CannotMeasure(f"model {target.model} takes {takes}; {reason}")
    if not files:
        return _random_inputs(target.card["inputs"][0], wanted)
    bodies = [_read(file) for file in files]
    for file, body in zip(files, bodies, strict=True):
        if len(body) != wanted:
            raise CannotMeasure(f"{file} has {len(body)} bytes, model {target.model} takes {wanted}")
    return Inputs("raw", bodies, ["application/octet-stream"] * len(bodies), [*map(str, files)])


def ndjson_jobs(target: Target, inputs: Inputs) -> list[bytes]:
    """Each input as a job in JSON, on a line."""
    texts = [base64.b64encode(body).decode() for body in inputs.bodies]
    if inputs.kind == "image":
        return [orjson.dumps({"model": target.model, "input": {"image": text}}) for text in texts]
    port = target.card["inputs"][0]
    facts = {"datatype": port["datatype"], "shape": port["shape"]}
    tensors = [{port["name"]: {**facts, "b64": text}} for text in texts]
    return [orjson.dumps({"model": target.model, "input": {"tensors": one}}) for one in tensors]


def _image_inputs(model: str, files: Sequence[Path]) -> Inputs:
    if not files:
        files = sorted(SAMPLES.glob("*.png")) if model == BUNDLED_MODEL else []
    if not files:
        where = f", and there are no samples in {SAMPLES.resolve()}" if model == BUNDLED_MODEL else ""
        raise CannotMeasure(f"model {model} takes images{where}: name some with --input FILE ...")
    bodies = [_read(file) for file in files]
    formats = [detect_format(body) for body in bodies]
    if None in formats:
        raise CannotMeasure(f"{files[formats.index(None)]} is not an image in a format that is taken")
    return Inputs("image", bodies, [f"image/{name}".lower() for name in formats], [*map(str, files)])


def _random_inputs(port: dict[str, Any], size: int) -> Inputs:
    """Floats from 0 to 1; whole numbers of 0 and 1, for they may be indices."""
    rng = random.Random(0)  # noqa: S311 - the same numbers every time, on purpose
    datatype = port["datatype"]
    whole = (lambda: rng.random() < 0.5) if datatype == "BOOL" else (lambda: rng.randrange(2))
    draw = rng.random if datatype.startswith("FP") else whole
    count = size // DATATYPES[datatype][0]
    rows = [[draw() for _ in range(count)] for _ in range(RANDOM_INPUTS)]
    bodies = [bytes(from_numbers(port["name"], datatype, (count,), row).data) for row in rows]
    return Inputs(
        "raw", bodies, ["application/octet-stream"] * len(bodies), [f"random {datatype} values"] * len(bodies)
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CannotMeasure(f"--input {file}: {error.strerror}") from error
