"""Request bodies to measure with: files, the bundled samples, or random tensors."""

import base64
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from cli.bench.errors import CannotMeasure
from cli.bench.load.target import BUNDLED_MODEL, Target
from jobs.contract import audio_formats, image_formats
from jobs.contract.tensors import DATATYPES, from_numbers

SAMPLES: Final = Path("samples") / BUNDLED_MODEL
RANDOM_INPUTS: Final = 8


class Inputs(NamedTuple):
    """Request bodies with their content types and names. `kind`: image, audio or raw, as in the gateway."""

    kind: str
    bodies: list[bytes]
    content_types: list[str]
    names: list[str]

    @property
    def origin(self) -> str:
        """The names of the first and last input."""
        return " … ".join(dict.fromkeys((self.names[0], self.names[-1])))


def gather_inputs(target: Target, files: Sequence[Path]) -> Inputs:
    """Return the inputs to send. Raises CannotMeasure, also for a file that does not fit the model."""
    if kind := next((kind for kind in ("image", "audio") if kind in target.card["kinds"]), None):
        return _file_inputs(target.model, kind, files)
    size = target.card["raw_bytes"]
    if size is None:
        specs = ", ".join(f"{spec['name']} {spec['datatype']} {spec['shape']}" for spec in target.card["inputs"])
        reason = "only models with an image, audio or one tensor of fixed shape can be measured"
        raise CannotMeasure(f"model {target.model} takes {specs}; {reason}")
    if not files:
        return _random_inputs(target.card["inputs"][0], size)
    bodies = [_read(file) for file in files]
    for file, body in zip(files, bodies, strict=True):
        if len(body) != size:
            raise CannotMeasure(f"{file} has {len(body)} bytes, model {target.model} needs {size}")
    return Inputs("raw", bodies, ["application/octet-stream"] * len(bodies), [*map(str, files)])


def ndjson_jobs(target: Target, inputs: Inputs) -> list[bytes]:
    """Encode each input as a job, a line of NDJSON."""
    texts = [base64.b64encode(body).decode() for body in inputs.bodies]
    if inputs.kind != "raw":
        return [orjson.dumps({"model": target.model, "input": {inputs.kind: text}}) for text in texts]
    spec = target.card["inputs"][0]
    header = {"datatype": spec["datatype"], "shape": spec["shape"]}
    tensors = [{spec["name"]: {**header, "b64": text}} for text in texts]
    return [orjson.dumps({"model": target.model, "input": {"tensors": tensor}}) for tensor in tensors]


def _file_inputs(model: str, kind: str, files: Sequence[Path]) -> Inputs:
    if not files:
        files = sorted(SAMPLES.glob("*.png")) if model == BUNDLED_MODEL else []
    if not files:
        where = f", and there are no samples in {SAMPLES.resolve()}" if model == BUNDLED_MODEL else ""
        raise CannotMeasure(f"model {model} takes {kind} files{where}: give files with --input FILE ...")
    bodies = [_read(file) for file in files]
    detect = image_formats.detect_format if kind == "image" else audio_formats.detect_format
    formats = [detect(body) for body in bodies]
    if None in formats:
        what = "an image" if kind == "image" else "audio"
        raise CannotMeasure(f"{files[formats.index(None)]} is not {what} in a supported format")
    types = [audio_formats.MEDIA_TYPES.get(str(name), f"image/{name}".lower()) for name in formats]
    return Inputs(kind, bodies, types, [*map(str, files)])


def _random_inputs(spec: dict[str, Any], size: int) -> Inputs:
    """Draw floats from 0 to 1, and only 0 or 1 for integers, which may be indices."""
    rng = random.Random(0)  # noqa: S311 - reproducible on purpose
    datatype = spec["datatype"]
    draw_integer = (lambda: rng.random() < 0.5) if datatype == "BOOL" else (lambda: rng.randrange(2))
    draw = rng.random if datatype.startswith("FP") else draw_integer
    count = size // DATATYPES[datatype][0]
    rows = [[draw() for _ in range(count)] for _ in range(RANDOM_INPUTS)]
    bodies = [bytes(from_numbers(spec["name"], datatype, (count,), row).data) for row in rows]
    names = [f"random {datatype} values"] * RANDOM_INPUTS
    return Inputs("raw", bodies, ["application/octet-stream"] * RANDOM_INPUTS, names)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CannotMeasure(f"--input {file}: {error.strerror}") from error
