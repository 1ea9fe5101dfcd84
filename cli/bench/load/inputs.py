"""Request bodies to measure with: files, the model's own examples, the bundled samples, or random values."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from cli.bench.errors import CannotMeasure
from cli.bench.load import random_inputs
from cli.bench.load.target import BUNDLED_MODEL, Target
from jobs.contract import audio_formats, image_formats
from jobs.contract.errors import Refused
from jobs.contract.input_fields import read_text
from jobs.contract.job_request import read_json_fields
from jobs.contract.json_reader import BLANK, read_json, require_object

SAMPLES: Final = Path("samples") / BUNDLED_MODEL
EXAMPLES_FOLDER: Final = "examples"  # in a model's folder
MAX_INPUTS: Final = 500  # each is sent once before the measurement; of more, every n-th is used
JSON, JSON_LINES = ".json", (".jsonl", ".ndjson")


class Inputs(NamedTuple):
    """Request bodies with their content types and names. `kind`: image, audio, raw or text, as in the gateway.

    The kind "json": each body is a whole job, with its model.
    """

    kind: str
    bodies: list[bytes]
    content_types: list[str]
    names: list[str]

    @property
    def origin(self) -> str:
        """The names of the first and last input."""
        return " … ".join(dict.fromkeys((self.names[0], self.names[-1])))


def gather_inputs(target: Target, files: Sequence[Path], models_dir: Path | None = None) -> Inputs:
    """Return the inputs to send. Raises CannotMeasure, also for a file that does not fit the model.

    `models_dir`: may have the model's own examples, which are used if no files are given.
    """
    model, card = target.model, target.card
    size, takes_text = card["raw_bytes"], "text" in card["kinds"]
    file_kind = next((kind for kind in ("image", "audio") if kind in card["kinds"]), None)
    files = files or _own_examples(models_dir, model, takes_files=file_kind is not None)
    if files and all(file.suffix in {JSON, *JSON_LINES} for file in files):
        return _json_inputs(model, [each for file in files for each in _read_values(file)])
    if file_kind is not None:
        return _file_inputs(model, file_kind, files)
    if takes_text:
        lines = [each for file in files for each in _read_lines(file)] if files else random_inputs.texts()
        return _inputs("text", "text/plain", lines)
    if size is None and not files and (made := random_inputs.job_inputs(card)):
        return _json_inputs(model, made)
    if size is None:
        reason = f"model {model} takes {_describe(card)}; allowed: --input FILE.jsonl, in each line the input of a job"
        raise CannotMeasure(reason)
    if not files:
        return _inputs("raw", "application/octet-stream", random_inputs.raw_tensors(card["inputs"][0], size))
    bodies = [(str(file), _read(file)) for file in files]
    for name, body in bodies:
        if len(body) != size:
            raise CannotMeasure(f"{name} has {len(body)} bytes, model {model} needs {size}")
    return _inputs("raw", "application/octet-stream", bodies)


def ndjson_jobs(target: Target, inputs: Inputs) -> list[bytes]:
    """Encode each input as a job, a line of NDJSON."""
    if inputs.kind == "json":
        return inputs.bodies
    if inputs.kind == "text":
        return [orjson.dumps({"model": target.model, "input": {"text": body.decode()}}) for body in inputs.bodies]
    texts = [base64.b64encode(body).decode() for body in inputs.bodies]
    if inputs.kind != "raw":
        return [orjson.dumps({"model": target.model, "input": {inputs.kind: text}}) for text in texts]
    spec = target.card["inputs"][0]
    header = {"datatype": spec["datatype"], "shape": spec["shape"]}
    tensors = [{spec["name"]: {**header, "b64": text}} for text in texts]
    return [orjson.dumps({"model": target.model, "input": {"tensors": tensor}}) for tensor in tensors]


def _inputs(kind: str, content_type: str, named: Sequence[tuple[str, bytes]]) -> Inputs:
    """Return inputs of one type, at most MAX_INPUTS of the named bodies. Raises CannotMeasure if there are none."""
    if not named:
        raise CannotMeasure("--input: the files have no input")
    count = min(len(named), MAX_INPUTS)
    chosen = [named[at * len(named) // count] for at in range(count)]
    return Inputs(kind, [body for _, body in chosen], [content_type] * count, [name for name, _ in chosen])


def _own_examples(models_dir: Path | None, model: str, *, takes_files: bool) -> list[Path]:
    """Return the files of the model's folder of examples that can be sent: pictures or audio, or else JSON."""
    if models_dir is None:
        return []
    files = sorted(path for path in (models_dir / model / EXAMPLES_FOLDER).rglob("*") if path.is_file())
    return [file for file in files if file.name[0] != "." and (file.suffix != JSON) == takes_files]


def _json_inputs(model: str, named: Sequence[tuple[str, Any]]) -> Inputs:
    """Return the jobs of values that are inputs, or bodies of requests."""
    jobs: list[tuple[str, bytes]] = []
    for name, value in named:
        try:
            fields = require_object(value, "an input")
            fields = {**(fields if "input" in fields else {"input": fields}), "model": model}
            rows = read_json_fields(fields).rows or 1
        except Refused as error:
            raise CannotMeasure(f"{name}: {error.message}") from error
        if rows > 1:
            raise CannotMeasure(f"{name} has {rows} rows; allowed: one, as jobs are compared with rows of the model")
        jobs.append((name, orjson.dumps(fields)))
    return _inputs("json", "application/json", jobs)


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


def _read_lines(file: Path) -> list[tuple[str, bytes]]:
    """Return the lines of a file that are not blank, with their names. Raises CannotMeasure if one is no text."""
    lines = [(f"{file}:{at}", line) for at, line in enumerate(_read(file).splitlines(), 1) if line.strip(BLANK)]
    try:
        return [(name, read_text(line, name)) for name, line in lines]
    except Refused as error:
        raise CannotMeasure(error.message) from error


def _read_values(file: Path) -> list[tuple[str, Any]]:
    """Return the JSON values of a file, with their names: of each line, or of a list."""
    try:
        if file.suffix in JSON_LINES:
            return [(name, read_json(line, name)) for name, line in _read_lines(file)]
        value = read_json(_read(file), str(file))
    except Refused as error:
        raise CannotMeasure(error.message) from error
    return [(str(file), each) for each in (value if isinstance(value, list) else [value])]


def _describe(card: dict[str, Any]) -> str:
    """Describe what a model takes, for a message."""
    if "tensors" in card["kinds"]:
        return ", ".join(f"{spec['name']} {spec['datatype']} {spec['shape']}" for spec in card["inputs"])
    return " or ".join([*(kind for kind in card["kinds"] if kind != "json"), *card.get("input_fields", [])])


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CannotMeasure(f"--input {file}: {error.strerror}") from error
