"""Turns a draft into a job for one model version: what can be seen without decoding is checked here, at once."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from jobs.contract import image_formats, tensors, webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import Refused
from jobs.contract.ids import choose_shard, new_job_id
from jobs.contract.job import Kind, Submission
from jobs.contract.job_request import JobRequest
from jobs.contract.json_reader import describe_value
from jobs.contract.tensors import Tensor
from jobs.models.catalog import ModelCard, ModelCatalog
from jobs.store.dead_letters import DeadLetter

MAX_KEY_LENGTH = 255
MAX_JSON_BYTES = 64 << 10
# Characters of a digest. With a job's id it fits the compact form that small hashes are kept in.
DIGEST_CHARS = 28


def admit(
    draft: JobRequest,
    catalog: ModelCatalog,
    guard: AddressPolicy,
    *,
    tenant: str,
    idempotency_key: str,
    shards: int,
    max_deadline_ms: int,
) -> Submission:
    """Make the job that the draft asks for; raises Refused. The key has been checked."""
    card = catalog.find(draft.model)
    kind, body = _choose_input(draft, card)
    deadline_ms = draft.deadline_ms or _deadline_ms(card, max_deadline_ms)
    if deadline_ms > max_deadline_ms:
        message = f"deadline_ms is at most {max_deadline_ms}"
        raise Refused("invalid_request", message, limit=max_deadline_ms)
    parameters, metadata = _dump_json("parameters", draft.parameters), _dump_json("metadata", draft.metadata)
    webhook = "" if draft.webhook is None else webhook_request.read_webhook(draft.webhook, guard)
    digest = ""
    if idempotency_key:
        asked = [draft.model.encode(), kind.encode(), body, parameters, metadata, draft.lane.encode()]
        asked += [webhook.encode()] if webhook else []
        asked += [b"deadline_ms %d" % draft.deadline_ms] if draft.deadline_ms is not None else []
        digest = sha256(b"\0".join(sha256(part).digest() for part in asked)).hexdigest()[:DIGEST_CHARS]
    return Submission(
        id=new_job_id(choose_shard(shards, tenant, idempotency_key)),
        model=card["name"],
        version=card["version"],
        kind=kind,
        input=body,
        tenant=tenant,
        lane=draft.lane,  # type: ignore[arg-type]  # checked when the draft was read
        deadline_ms=deadline_ms,
        parameters=parameters,
        metadata=metadata,
        idempotency_key=idempotency_key,
        digest=digest,
        webhook=webhook,
    )


def admit_replay(
    letter: DeadLetter, body: bytes, catalog: ModelCatalog, *, idempotency_key: str, shards: int, max_deadline_ms: int
) -> Submission:
    """Make the job that sends a dead letter again, for the version that is served now; raises Refused."""
    job, card = letter.job, catalog.find(letter.job.model)
    if letter.kind not in card["kinds"]:
        message = f"model {card['name']} does not take {letter.kind!r} any more"
        raise Refused("invalid_input", message, allowed=list(card["kinds"]))
    if letter.kind == "raw":
        _check_raw(body, card)
    # The same letter sent again at the same time by two callers, or once more after a lost answer, is one job.
    again = sha256(f"{job.id} {letter.replayed_as}".encode()).hexdigest()[:32]
    return Submission(
        id=new_job_id(choose_shard(shards, job.tenant, idempotency_key)) if idempotency_key else job.id[:2] + again,
        model=card["name"],
        version=card["version"],
        kind=letter.kind,  # type: ignore[arg-type]  # it is among the card's
        input=body,
        tenant=job.tenant,
        lane=job.lane,  # type: ignore[arg-type]  # it was checked when the job was taken
        deadline_ms=_deadline_ms(card, max_deadline_ms),
        parameters=letter.parameters,
        metadata=job.metadata,
        idempotency_key=idempotency_key,
        digest=sha256(f"replay {job.id}".encode()).hexdigest()[:DIGEST_CHARS] if idempotency_key else "",
        webhook=letter.webhook,
    )


def _deadline_ms(card: ModelCard, max_deadline_ms: int) -> int:
    return min(card.get("deadline_ms") or max_deadline_ms, max_deadline_ms)


def check_idempotency_key(key: str) -> None:
    """Raise Refused for a key that can not be one."""
    if len(key) > MAX_KEY_LENGTH or not key.isprintable() or " " in key:
        message = f"Idempotency-Key must be at most {MAX_KEY_LENGTH} printable characters without spaces"
        raise Refused("invalid_request", message)


def _dump_json(name: str, value: Mapping[str, Any]) -> bytes:
    if not value:
        return b"{}"
    try:
        text = orjson.dumps(value)
    except TypeError as error:  # nested deeper than is written, though not deeper than is read
        raise Refused("invalid_request", f"{name} can not be kept: {error}") from error
    if len(text) > MAX_JSON_BYTES:
        raise Refused("invalid_request", f"{name} may have {MAX_JSON_BYTES} bytes", limit_bytes=MAX_JSON_BYTES)
    return text


def _choose_input(draft: JobRequest, card: ModelCard) -> tuple[Kind, bytes]:
    kinds = card["kinds"]
    if draft.raw is not None and "raw" in kinds:
        return "raw", _check_raw(draft.raw, card)
    image = draft.image if draft.image is not None else draft.raw
    if image is not None and "image" in kinds:
        return "image", _check_image(image)
    if draft.tensors is not None and "tensors" in kinds:
        return "tensors", tensors.pack_tensors(_read_tensors(draft.tensors, card))
    given = "an image" if image is not None else "tensors"
    raise Refused("invalid_input", f"model {card['name']} does not take {given}", allowed=list(kinds))


def _check_image(data: bytes) -> bytes:
    if not data:
        raise Refused("invalid_image", "the image is empty (0 bytes)")
    if image_formats.detect_format(data) is None:
        message = "the first bytes are not those of an image format that is taken"
        raise Refused("unsupported_media_type", message, allowed=list(image_formats.IMAGE_FORMATS))
    return data


def _check_raw(data: bytes, card: ModelCard) -> bytes:
    wanted = card["raw_bytes"]
    if wanted is None:
        message = f"model {card['name']} has no single input of fixed shape: send JSON tensors"
        raise Refused("invalid_input", message, inputs=card["inputs"])
    if len(data) != wanted:
        message = f"model {card['name']} takes {wanted} bytes, not {len(data)}"
        raise Refused("invalid_input", message, inputs=card["inputs"])
    tensors.check_tensor_bytes(card["inputs"][0]["name"], card["inputs"][0]["datatype"], data)
    return data


def _read_tensors(given: Mapping[str, Any], card: ModelCard) -> dict[str, Tensor]:
    ports = {port["name"]: port for port in card["inputs"]}
    if set(given) != set(ports):
        names = ", ".join(describe_value(name) for name in sorted(given)[:20])
        message = f"model {card['name']} takes the tensors {sorted(ports)}, not {names}"
        raise Refused("invalid_input", message, inputs=card["inputs"])
    return {name: _read_tensor(name, given[name], port) for name, port in ports.items()}


def _read_tensor(name: str, given: Any, port: Mapping[str, Any]) -> Tensor:
    datatype, shape = tensors.read_tensor_header(name, given)
    if datatype != port["datatype"]:
        raise Refused("invalid_input", f"tensor {name!r} has datatype {port['datatype']}, not {datatype!r}")
    wanted = port["shape"]
    if len(shape) != len(wanted) or any(w not in (-1, size) for w, size in zip(wanted, shape, strict=True)):
        message = f"tensor {name!r} has shape {wanted} (-1 = any size, no batch dimension), not {list(shape[:20])}"
        raise Refused("invalid_input", message)
    return tensors.read_tensor_values(name, datatype, shape, given)
