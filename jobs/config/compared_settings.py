"""Lists the settings that must be equal in all processes, and converts their values to comparable text.

Every setting is in one of the two tables: a test refuses a new one that is in neither.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic_settings import BaseSettings

Part = Literal["gateway", "worker", "deliverer"]
_GATEWAY: Final = ("gateway",)
_WORKER: Final = ("worker",)
_DELIVERER: Final = ("deliverer",)
_SUBMITTERS: Final = ("gateway", "deliverer")  # both submit jobs, and know files of batches and addresses of webhooks
_ALL: Final = ("gateway", "worker", "deliverer")

# Setting → the parts that use it. A process announces those of its part alone: what it does not use may be anything.
COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    # how long ended jobs are kept: the process that ends a job decides
    **dict.fromkeys(("RESULT_TTL_S", "DEAD_LETTER_TTL_S", "DEAD_LETTERS", "DEAD_LETTER_BYTES"), _ALL),
    "REQUIRE_DURABLE": _ALL,
    # which jobs are taken
    **dict.fromkeys(("MAX_JOBS", "MAX_INPUT_BYTES", "TENANT_JOBS", "TENANT_BYTES", "DEFAULT_MODEL"), _SUBMITTERS),
    **dict.fromkeys(("TENANT_RUNNING", "TENANTS"), _ALL),
    **dict.fromkeys(("TENANT_REQUESTS", "TENANT_WINDOW_S", "IDEMPOTENCY_TTL_S", "OWN_CAP"), _GATEWAY),
    # what becomes of lost and deadly jobs
    "MAX_LOSSES": _GATEWAY,
    **dict.fromkeys(("MAX_KILLS", "TRIAL_REST_S", "BULK_SHARE"), _WORKER),
    # what a caller may expect, whichever gateway it reaches
    **dict.fromkeys(("OPEN", "MAX_BODY_BYTES", "MAX_REQUEST_JOBS", "MAX_DEADLINE_MS", "MAX_STREAMS"), _GATEWAY),
    **dict.fromkeys(("MAX_WAIT_S", "PREDICT_WAIT_S", "PREDICT_HANGUP_CANCELS", "MEMORY_WATERMARK"), _GATEWAY),
    **dict.fromkeys(("ROLLBACK_ERRORS", "ROLLBACK_JOBS", "ROLLBACK_WATCH_S", "WEBHOOK_ROTATE_S"), _GATEWAY),
    # where webhooks may go, and how they are sent
    **dict.fromkeys(("WEBHOOK_ALLOW_CIDRS", "WEBHOOK_SCHEMES", "WEBHOOK_PORTS"), _SUBMITTERS),
    **dict.fromkeys(("WEBHOOK_SCHEDULE", "WEBHOOK_TIMEOUT_S", "WEBHOOK_SLOW_S", "WEBHOOK_FLIGHT_S"), _DELIVERER),
    **dict.fromkeys(
        ("WEBHOOK_PER_HOST", "WEBHOOK_BACKLOG", "WEBHOOK_TENANT_BACKLOG", "WEBHOOK_PAUSE_AFTER_S", "WEBHOOK_PAUSE_S"),
        _DELIVERER,
    ),
    **dict.fromkeys(("WEBHOOK_LOG", "WEBHOOK_LOG_TTL_S", "PUBLIC_URL"), _DELIVERER),
    # batches
    **dict.fromkeys(("BULK_STORE", "BULK_FILES", "BULK_TTL_S"), _SUBMITTERS),
    **dict.fromkeys(("BULK_FILE_BYTES", "BULK_BATCHES"), _GATEWAY),
    **dict.fromkeys(("BULK_LINE_BYTES", "BULK_LINES", "BULK_URLS", "BULK_IMAGES"), _DELIVERER),
    **dict.fromkeys(
        ("BULK_IN_FLIGHT", "BULK_IN_FLIGHT_BYTES", "BULK_FLIGHT_S", "BULK_STEP_TRIES", "BULK_END_S"), _DELIVERER
    ),
}

# What each process, or each machine, may have as it likes.
NOT_COMPARED: Final = frozenset(
    {
        "SHARDS",  # enforced
        "LEASE_S",  # a job's lease is as long as its own worker says
        *(
            "REDIS_URL",
            "REDIS_URL_FILE",
            "RQ_REDIS_URL",
            "RQ_REDIS_URL_FILE",
        ),  # the same server may have several addresses
        *("HOST", "PORT", "LOG_LEVEL", "MODELS_DIR", "MODELS", "GPU_DEVICE", "ENGINE_CACHE"),
        # how much one process takes on at a time
        *("MAX_BODIES_BYTES", "MAX_BUFFERS_BYTES", "MAX_HEAD_BYTES", "MAX_CONNECTIONS", "MAX_WAITERS"),
        *("CPUS", "DECODE_THREADS"),
        *("DELIVERIES", "SLOW_DELIVERIES", "BULK_CHUNK", "BULK_STEPS", "BULK_FETCHES", "BULK_UPLOAD_RATE"),
        # how often it does something, and how long it waits for what
        *(
            "HEAD_S",
            "RECEIVE_S",
            "SEND_S",
            "KEEP_ALIVE_S",
            "REDIS_TIMEOUT_S",
            "SWEEP_S",
            "EVENTS_BEAT_S",
            "RECHECK_S",
            "MODELS_S",
        ),
        *("KEYS_S", "STATS_S", "BEAT_S", "IDLE_POLL_S", "MODELS_WATCH_S", "UNLOAD_AFTER_S", "STUCK_S", "LAME_DUCK_S"),
        *("DRAIN_S", "DELIVER_DRAIN_S", "WEBHOOK_POLL_S", "WEBHOOK_JITTER", "BULK_STEP_S", "BULK_COLLECT_S"),
        *("BULK_SWEEP_S", "BULK_POLL_S", "BULK_FETCH_S", "BULK_RETRY_S"),
    }
)

_UNORDERED_SETTINGS: Final = frozenset(
    {"WEBHOOK_ALLOW_CIDRS", "WEBHOOK_SCHEMES", "WEBHOOK_PORTS", "BULK_URLS"}
)  # in any order
_STORAGE_SETTINGS: Final = ("BULK_STORE", "BULK_IMAGES")

# Not shown on pages that need no key: of these `/readyz` gives a digest.
PRIVATE: Final = frozenset({"TENANTS", "WEBHOOK_ALLOW_CIDRS", "BULK_STORE", "BULK_URLS", "BULK_IMAGES"})


def compared_values(part: Part, host: str, settings: Sequence[BaseSettings]) -> dict[str, str]:
    """Give the settings that a process of this part must have like the others, as text."""
    named = [(name.upper(), value) for one in settings for name, value in one]
    values = {name: _text(name, value) for name, value in named if part in COMPARED.get(name, ())}
    for name in _STORAGE_SETTINGS:
        place = values.get(name, "")
        if place and "://" not in place:
            # Hosts may reach a shared folder by different paths; on one host a path names one folder.
            values |= {name: "a folder", f"{name} on {host}": str(Path(place).resolve())}
    return values


def redact_value(what: str, value: str) -> str:
    """Give a value as anybody may see it."""
    is_private = what.partition(" ")[0] in PRIVATE and value
    return f"sha256 {sha256(value.encode()).hexdigest()[:12]}" if is_private else value


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, Mapping):
        plain = {
            key: one.model_dump(exclude_none=True) if isinstance(one, BaseModel) else one for key, one in value.items()
        }
        return json.dumps(plain, sort_keys=True)
    return ",".join(sorted(part.strip() for part in value.split(","))) if name in _UNORDERED_SETTINGS else str(value)
