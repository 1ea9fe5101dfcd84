"""Reads and changes a job's record in Redis, whichever fields hold its words."""

from typing import Any

from jobs.redis_client import keys
from jobs.store import codec
from jobs.store.raw_record import OPEN_WORDS, flatten


def read(client: Any, job_id: str) -> dict[str, str]:
    """Read a job's record; empty if there is none."""
    return flatten(client.hgetall(keys.job(job_id)))


def change(client: Any, job_id: str, **words: str) -> None:
    """Change words of an open job's `head` and `state`."""
    key = keys.job(job_id)
    record = client.hgetall(key)
    head = dict(zip(codec.JobHead._fields, record[b"head"].decode().split(" "), strict=True))
    head |= {name: value for name, value in words.items() if name in head}
    states = dict(zip(OPEN_WORDS, record[b"state"].decode().split(" ", len(OPEN_WORDS) - 1), strict=False))
    states |= {name: value for name, value in words.items() if name in OPEN_WORDS}
    client.hset(key, mapping={"head": " ".join(map(str, head.values())), "state": " ".join(states.values())})
