"""Turns a job request, or a dead letter to replay, into a submission; checks it and its idempotency key."""

from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Any

import orjson

from jobs.contract import audio_formats, image_formats, tensors, webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import Refused
from jobs.contract.ids import choose_shard, new_job_id
from jobs.contract.input_fields import encode_input
from jobs.contract.job import Kind, Submission
from jobs.contract.job_request import JobRequest
from jobs.contract.json_reader import describe_value
from jobs.contract.request_context import REQUEST_CONTEXT
from jobs.contract.tensors import Tensor
from jobs.models.catalog import ModelCard, ModelCatalog
from jobs.store.dead_letters import DeadLetter

MAX_KEY_LENGTH = 255
ROW_TASKS = ["tensor", "tabular", "text-embedding", "text-classification", "token-classification", "text-ranking"]
MAX_JSON_BYTES = 64 << 10
# Characters of a digest. With a job's id it fits Redis's compact encoding of small hashes.
DIGEST_CHARS = 28


def admit(
    request: JobRequest,
    catalog: ModelCatalog,
    address_policy: AddressPolicy,
    *,
    tenant: str,
    idempotency_key: str,
    shards: int,
    max_deadline_ms: int,
) -> Submission:
    """Return the submission for a job request. Raises Refused. The caller has checked the key."""
    card = request.card or catalog.find(request.model, request.version)
    rows = request.rows or 0
    if rows:
        _check_rows(rows, card)
    kind, body = _choose_input(request, card, rows)
    deadline_ms = request.deadline_ms or _deadline_ms(card, max_deadline_ms)
    if deadline_ms > max_deadline_ms:
        message = f"deadline_ms may be at most {max_deadline_ms}"
        raise Refused("invalid_request", message, limit=max_deadline_ms)
    parameters, metadata = _dump_json("parameters", request.parameters), _dump_json("metadata", request.metadata)
    webhook = "" if request.webhook is None else webhook_request.read_webhook(request.webhook, address_policy)
    digest = ""
    if idempotency_key:
        parts = [request.model.encode(), kind.encode(), body, parameters, metadata, request.lane.encode()]
        parts += [webhook.encode()] if webhook else []
        parts += [b"deadline_ms %d" % request.deadline_ms] if request.deadline_ms is not None else []
        parts += [b"rows %d" % rows] if rows else []
        parts += [b"version %b" % request.version.encode()] if request.version else []
        digest = sha256(b"\0".join(sha256(part).digest() for part in parts)).hexdigest()[:DIGEST_CHARS]
    return Submission(
        id=new_job_id(choose_shard(shards, tenant, idempotency_key)),
        model=card["name"],
        version=card["version"],
        kind=kind,
        input=body,
        tenant=tenant,
        lane=request.lane,  # type: ignore[arg-type]  # checked when the request was read
        deadline_ms=deadline_ms,
        parameters=parameters,
        metadata=metadata,
        idempotency_key=idempotency_key,
        digest=digest,
        webhook=webhook,
        rows=rows,
        request_context=REQUEST_CONTEXT.get(),
    )


def admit_replay(
    dead_letter: DeadLetter,
    body: bytes,
    catalog: ModelCatalog,
    *,
    idempotency_key: str,
    shards: int,
    max_deadline_ms: int,
) -> Submission:
    """Return the submission that replays a dead letter on the version served now. Raises Refused."""
    job, card = dead_letter.job, catalog.find(dead_letter.job.model)
    if dead_letter.kind not in card["kinds"]:
        message = f"model {card['name']} no longer accepts {dead_letter.kind!r}"
        raise Refused("invalid_input", message, allowed=list(card["kinds"]))
    if dead_letter.rows:
        _check_rows(dead_letter.rows, card)
    if dead_letter.kind == "raw":
        _check_raw(body, card, dead_letter.rows)
    # The id is derived, so that concurrent replays, or a repeat after a lost response, make one job.
    replay_id = sha256(f"{job.id} {dead_letter.replayed_as}".encode()).hexdigest()[:32]
    return Submission(
        id=new_job_id(choose_shard(shards, job.tenant, idempotency_key)) if idempotency_key else job.id[:2] + replay_id,
        model=card["name"],
        version=card["version"],
        kind=dead_letter.kind,  # type: ignore[arg-type]  # one of the card's kinds
        input=body,
        tenant=job.tenant,
        lane=job.lane,  # type: ignore[arg-type]  # checked at the first submit
        deadline_ms=_deadline_ms(card, max_deadline_ms),
        parameters=dead_letter.parameters,
        metadata=job.metadata,
        idempotency_key=idempotency_key,
        digest=sha256(f"replay {job.id}".encode()).hexdigest()[:DIGEST_CHARS] if idempotency_key else "",
        webhook=dead_letter.webhook,
        rows=dead_letter.rows,
        request_context=REQUEST_CONTEXT.get(),
    )


def _deadline_ms(card: ModelCard, max_deadline_ms: int) -> int:
    return min(card.get("deadline_ms") or max_deadline_ms, max_deadline_ms)


def check_idempotency_key(key: str) -> None:
    """Raise Refused for an invalid idempotency key."""
    if len(key) > MAX_KEY_LENGTH or not key.isprintable() or " " in key:
        message = f"Idempotency-Key must be at most {MAX_KEY_LENGTH} printable characters without spaces"
        raise Refused("invalid_request", message)


def _dump_json(name: str, value: Mapping[str, Any]) -> bytes:
    if not value:
        return b"{}"
    try:
        text = orjson.dumps(value)
    except TypeError as error:  # a value that can be read but is nested too deep to be written
        raise Refused("invalid_request", f"{name} cannot be stored: {error}") from error
    if len(text) > MAX_JSON_BYTES:
        message = f"{name} may have at most {MAX_JSON_BYTES} bytes"
        raise Refused("invalid_request", message, limit_bytes=MAX_JSON_BYTES)
    return text


def _check_rows(rows: int, card: ModelCard) -> None:
    """Raise Refused unless the model takes inputs of this number of rows."""
    limit = card.get("max_rows")
    if limit is None:
        message = f"model {card['name']} has the task {card.get('task')}, which takes no rows: send one job per item"
        raise Refused("invalid_request", f"{message}, or use a model of an allowed task", allowed=ROW_TASKS)
    if rows > limit:
        message = f"a job for model {card['name']} may have at most {limit} rows, and this one has {rows}"
        raise Refused("invalid_request", f"{message}: send several jobs", limit=limit)


def _choose_input(request: JobRequest, card: ModelCard, rows: int) -> tuple[Kind, bytes]:
    kinds = card["kinds"]
    if request.raw is not None and "raw" in kinds:
        return "raw", _check_raw(request.raw, card, rows)
    if request.raw is not None and "bytes" in kinds:
        return "bytes", request.raw
    file = _choose_file(request, kinds)
    if file is not None:
        return file
    if request.tensors is not None and "tensors" in kinds:
        return "tensors", tensors.pack_tensors(_read_tensors(request.tensors, card, rows))
    if request.fields is not None:
        accepted = card.get("input_fields") or []
        if all(name in accepted for name in request.fields):
            return "json", encode_input(request.fields)
    if request.text is not None and "text" in kinds:
        return "text", request.text
    message = f"model {card['name']} does not accept {_describe_input(request)}"
    raise Refused("invalid_input", message, allowed=_accepted(card))


def _choose_file(request: JobRequest, kinds: Collection[str]) -> tuple[Kind, bytes] | None:
    """Return the image or the audio of a request, if the model takes it. Raw bytes may be either."""
    image = request.image if request.image is not None else request.raw
    if image is not None and "image" in kinds:
        return "image", _check_image(image)
    audio = request.audio if request.audio is not None else request.raw
    if audio is not None and "audio" in kinds:
        return "audio", _check_audio(audio)
    return None


def _describe_input(request: JobRequest) -> str:
    if request.fields is not None:
        return repr(next(iter(request.fields)))
    sent = {"an image": request.image, "audio": request.audio, "bytes": request.raw, "text": request.text}
    return next((name for name, data in sent.items() if data is not None), "tensors")


def _accepted(card: ModelCard) -> list[str]:
    """Return the kinds of input that a model takes, and the fields of the kind "json"."""
    return [*(kind for kind in card["kinds"] if kind != "json"), *(card.get("input_fields") or [])]


def _check_image(data: bytes) -> bytes:
    if not data:
        raise Refused("invalid_image", "the image is empty (0 bytes)")
    if image_formats.detect_format(data) is None:
        message = "the first bytes are not those of a supported image format"
        raise Refused("unsupported_media_type", message, allowed=list(image_formats.IMAGE_FORMATS))
    return data


def _check_audio(data: bytes) -> bytes:
    if not data:
        raise Refused("invalid_audio", "the audio is empty (0 bytes)")
    if audio_formats.detect_format(data) is None:
        message = "the first bytes are not those of a supported audio format"
        raise Refused("unsupported_media_type", message, allowed=list(audio_formats.AUDIO_FORMATS))
    return data


def _check_raw(data: bytes, card: ModelCard, rows: int) -> bytes:
    expected = card["raw_bytes"]
    if expected is None:
        message = f"model {card['name']} has no single input of fixed shape: send JSON tensors"
        raise Refused("invalid_input", message, inputs=card["inputs"])
    if len(data) != expected * (rows or 1):
        of_rows = f" for each of {rows} rows" if rows else ""
        message = f"model {card['name']} takes {expected} bytes{of_rows}, not {len(data)}"
        raise Refused("invalid_input", message, inputs=card["inputs"])
    tensors.check_tensor_bytes(card["inputs"][0]["name"], card["inputs"][0]["datatype"], data)
    return data


def _read_tensors(values: Mapping[str, Any], card: ModelCard, rows: int) -> dict[str, Tensor]:
    specs = {spec["name"]: spec for spec in card["inputs"]}
    if set(values) != set(specs):
        names = ", ".join(describe_value(name) for name in sorted(values)[:20])
        message = f"model {card['name']} takes the tensors {sorted(specs)}, not {names}"
        raise Refused("invalid_input", message, inputs=card["inputs"])
    return {name: _read_tensor(name, values[name], spec, rows) for name, spec in specs.items()}


def _read_tensor(name: str, value: Any, spec: Mapping[str, Any], rows: int) -> Tensor:
    """Return the tensor of a JSON value, or a Tensor, whose values fit its shape. Raises Refused."""
    datatype, shape = value[:2] if type(value) is Tensor else tensors.read_tensor_header(name, value)
    if datatype != spec["datatype"]:
        raise Refused("invalid_input", f"tensor {name!r} has datatype {spec['datatype']}, not {datatype!r}")
    expected = [rows, *spec["shape"]] if rows else spec["shape"]
    if len(shape) != len(expected) or any(e not in (-1, size) for e, size in zip(expected, shape, strict=True)):
        first = "the rows first" if rows else "no batch dimension"
        message = f"tensor {name!r} has shape {expected} (-1 = any size, {first}), not {list(shape[:20])}"
        raise Refused("invalid_input", message)
    return value if type(value) is Tensor else tensors.read_tensor_values(name, datatype, shape, value)
