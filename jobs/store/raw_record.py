"""Reads a job's record as it lies in Redis, with all its words and places, for operators and tests."""

from collections.abc import Mapping
from typing import Final

from jobs.contract.ids import shard_of
from jobs.contract.lifecycle import FINAL
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store import codec

STATE_WORDS: Final = ("state", "attempts", "owner", "started_us")
OPEN_WORDS: Final = (*STATE_WORDS, "running_mark", "watchers")
FINAL_WORDS: Final = (*STATE_WORDS, "finished_us", "batch_size", "stages_ms", "error_code")
_ABSENT: Final = "-"


def flatten(record: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return a record's words and facts, and its other fields, as text. What it lacks is left out."""
    texts = {name.decode(): value.decode(errors="replace") for name, value in record.items()}
    flat: dict[str, str] = {}
    if head := texts.pop("head", ""):
        flat |= zip(codec.JobHead._fields, head.split(" "), strict=False)
        flat["kind"], parameters = codec.read_kind(flat.get("kind", _ABSENT))
        if parameters != b"{}":
            flat["parameters"] = parameters.decode()
    if state := texts.pop("state", ""):
        is_final = state.split(" ")[0] in FINAL
        words = state.split(" ") if is_final else state.split(" ", len(OPEN_WORDS) - 1)
        flat |= zip(FINAL_WORDS if is_final else OPEN_WORDS, words, strict=False)
    if facts := record.get(b"facts"):
        del texts["facts"]
        try:
            flat |= {name: value.decode(errors="replace") for name, value in codec.read_facts(facts).items()}
        except ValueError:
            flat["facts"] = repr(facts)
    return {name: value for name, value in (flat | texts).items() if value != _ABSENT}


async def read_record(connection: RedisClient, job_id: str) -> dict[str, str]:
    """Read a job's record, where it lies and how long it lives; empty if there is none. Raises StoreUnavailable.

    `body` is replaced by its bytes. Times are in ms since the epoch where their names do not say µs.
    """
    key = keys.job(job_id)
    record, ttl_ms, timer, retry, apart = await connection.pipeline(
        [
            ("HGETALL", key),
            ("PTTL", key),
            ("ZSCORE", keys.timers(shard_of(job_id)), job_id),
            ("ZSCORE", keys.retries(shard_of(job_id)), job_id),
            ("STRLEN", keys.input_key(job_id)),
        ],
        large=True,
    )
    if not record:
        return {}
    flat = flatten(record)
    if "body" in flat:
        flat["body"] = f"{len(record[b'body'])} bytes"
    places = {
        "timer_ms": timer and f"{timer:.0f}",
        "retry_ms": retry and f"{retry:.0f}",
        "input_key": apart and f"{apart} bytes",
        "expires_in_ms": ttl_ms > 0 and str(ttl_ms),
    }
    names = codec.JobHead._fields
    if set(names) <= flat.keys():
        queue = keys.queue(shard_of(job_id), *(flat[name] for name in ("model", "version", "lane", "tenant")))
        rank = await connection.command("ZRANK", queue, job_id)
        places["queue_position"] = str(rank + 1) if rank is not None else None
    return flat | {name: text for name, text in places.items() if text}
