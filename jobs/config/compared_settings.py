"""Lists the settings that must be equal in all processes, and converts their values to comparable text.

A test fails for a setting that is in neither of the two tables.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic_settings import BaseSettings

from jobs.config.environment import PREFIX

Part = Literal["gateway", "worker", "deliverer"]
_GATEWAY: Final = ("gateway",)
_WORKER: Final = ("worker",)
_DELIVERER: Final = ("deliverer",)
_SUBMITTERS: Final = ("gateway", "deliverer")  # both submit jobs, read bulk files and check webhook addresses
_ALL: Final = ("gateway", "worker", "deliverer")

# Setting → the parts that use it. A process announces only the settings of its own part.
COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    # retention of finished jobs, applied by the process that finishes a job
    **dict.fromkeys(
        ("JITNEY_RESULT_TTL_S", "JITNEY_DEAD_LETTER_TTL_S", "JITNEY_DEAD_LETTERS", "JITNEY_DEAD_LETTER_BYTES"), _ALL
    ),
    "JITNEY_REQUIRE_DURABLE": _ALL,
    "JITNEY_OUTPUT_WATERMARK": _WORKER,
    # admission
    **dict.fromkeys(
        (
            "JITNEY_MAX_JOBS",
            "JITNEY_MAX_INPUT_BYTES",
            "JITNEY_TENANT_JOBS",
            "JITNEY_TENANT_BYTES",
            "JITNEY_DEFAULT_MODEL",
        ),
        _SUBMITTERS,
    ),
    **dict.fromkeys(("JITNEY_TENANT_RUNNING", "JITNEY_TENANTS"), _ALL),
    **dict.fromkeys(
        ("JITNEY_TENANT_REQUESTS", "JITNEY_TENANT_WINDOW_S", "JITNEY_IDEMPOTENCY_TTL_S", "JITNEY_JOB_LIST_LIMIT"),
        _GATEWAY,
    ),
    # lost leases and poison jobs
    "JITNEY_MAX_LOST_LEASES": _GATEWAY,
    **dict.fromkeys(("JITNEY_MAX_KILLS", "JITNEY_SUSPECT_COOLDOWN_S", "JITNEY_BULK_SHARE"), _WORKER),
    # limits and waits of the API, the same on every gateway
    **dict.fromkeys(
        (
            "JITNEY_ALLOW_ANONYMOUS",
            "JITNEY_MAX_BODY_BYTES",
            "JITNEY_MAX_JOBS_PER_REQUEST",
            "JITNEY_MAX_DEADLINE_MS",
            "JITNEY_MAX_STREAMS",
        ),
        _GATEWAY,
    ),
    **dict.fromkeys(
        ("JITNEY_MAX_WAIT_S", "JITNEY_PREDICT_WAIT_S", "JITNEY_PREDICT_HANGUP_CANCELS", "JITNEY_MEMORY_WATERMARK"),
        _GATEWAY,
    ),
    **dict.fromkeys(
        (
            "JITNEY_ROLLBACK_ERRORS",
            "JITNEY_ROLLBACK_JOBS",
            "JITNEY_ROLLBACK_WATCH_S",
            "JITNEY_WEBHOOK_SECRET_OVERLAP_S",
        ),
        _GATEWAY,
    ),
    # webhook targets and delivery
    **dict.fromkeys(("JITNEY_WEBHOOK_ALLOW_CIDRS", "JITNEY_WEBHOOK_SCHEMES", "JITNEY_WEBHOOK_PORTS"), _SUBMITTERS),
    **dict.fromkeys(
        ("JITNEY_WEBHOOK_SCHEDULE", "JITNEY_WEBHOOK_TIMEOUT_S", "JITNEY_WEBHOOK_SLOW_S", "JITNEY_WEBHOOK_LEASE_S"),
        _DELIVERER,
    ),
    **dict.fromkeys(
        (
            "JITNEY_WEBHOOK_PER_HOST",
            "JITNEY_WEBHOOK_BACKLOG",
            "JITNEY_WEBHOOK_TENANT_BACKLOG",
            "JITNEY_WEBHOOK_PAUSE_AFTER_S",
            "JITNEY_WEBHOOK_PAUSE_S",
        ),
        _DELIVERER,
    ),
    **dict.fromkeys(("JITNEY_WEBHOOK_LOG", "JITNEY_WEBHOOK_LOG_TTL_S", "JITNEY_PUBLIC_URL"), _DELIVERER),
    # bulk jobs
    **dict.fromkeys(("JITNEY_BULK_STORE", "JITNEY_BULK_FILES", "JITNEY_BULK_TTL_S"), _SUBMITTERS),
    **dict.fromkeys(("JITNEY_BULK_FILE_BYTES", "JITNEY_BULK_BATCHES"), _GATEWAY),
    **dict.fromkeys(
        ("JITNEY_BULK_LINE_BYTES", "JITNEY_BULK_LINES", "JITNEY_BULK_IMAGE_URL_PREFIXES", "JITNEY_BULK_IMAGE_STORE"),
        _DELIVERER,
    ),
    **dict.fromkeys(
        (
            "JITNEY_BULK_IN_FLIGHT",
            "JITNEY_BULK_IN_FLIGHT_BYTES",
            "JITNEY_BULK_STEP_LEASE_S",
            "JITNEY_BULK_STEP_TRIES",
            "JITNEY_BULK_END_S",
        ),
        _DELIVERER,
    ),
}

# Settings that may differ between processes or machines.
NOT_COMPARED: Final = frozenset(
    {
        "JITNEY_SHARDS",  # enforced instead of compared
        "JITNEY_LEASE_S",  # each worker sets the length of its own leases
        *(
            "JITNEY_REDIS_URL",
            "JITNEY_REDIS_URL_FILE",
            "JITNEY_RQ_REDIS_URL",
            "JITNEY_RQ_REDIS_URL_FILE",
        ),  # one server may have several addresses
        *(
            "JITNEY_HOST",
            "JITNEY_PORT",
            "JITNEY_LOG_LEVEL",
            "JITNEY_MODELS_DIR",
            "JITNEY_SERVE_MODELS",
            "JITNEY_GPU_DEVICE",
            "JITNEY_TENSORRT_CACHE_DIR",
        ),
        # capacity of one process
        *(
            "JITNEY_MAX_BUFFERED_BODY_BYTES",
            "JITNEY_MAX_BUFFERED_OUTPUT_BYTES",
            "JITNEY_OUTPUT_CHUNK_BYTES",
            "JITNEY_MAX_BUFFERS_BYTES",
            "JITNEY_MAX_HEADER_BYTES",
            "JITNEY_MAX_CONNECTIONS",
            "JITNEY_MAX_WAITERS",
        ),
        *("JITNEY_CPUS", "JITNEY_DECODE_THREADS"),
        *(
            "JITNEY_WEBHOOK_CONCURRENCY",
            "JITNEY_WEBHOOK_SLOW_CONCURRENCY",
            "JITNEY_BULK_CHUNK",
            "JITNEY_BULK_CONCURRENCY",
            "JITNEY_BULK_FETCH_CONCURRENCY",
            "JITNEY_BULK_UPLOAD_RATE",
        ),
        # intervals and timeouts of one process
        *(
            "JITNEY_HEADER_TIMEOUT_S",
            "JITNEY_BODY_TIMEOUT_S",
            "JITNEY_SEND_TIMEOUT_S",
            "JITNEY_KEEPALIVE_TIMEOUT_S",
            "JITNEY_REDIS_TIMEOUT_S",
            "JITNEY_SWEEP_INTERVAL_S",
            "JITNEY_SSE_KEEPALIVE_S",
            "JITNEY_WAIT_RECHECK_S",
            "JITNEY_MODEL_REFRESH_S",
        ),
        *(
            "JITNEY_API_KEY_REFRESH_S",
            "JITNEY_METRICS_FLUSH_S",
            "JITNEY_HEARTBEAT_S",
            "JITNEY_IDLE_POLL_S",
            "JITNEY_MODELS_POLL_S",
            "JITNEY_UNLOAD_AFTER_S",
            "JITNEY_RUN_STOP_TIMEOUT_S",
            "JITNEY_LAME_DUCK_S",
        ),
        *(
            "JITNEY_DRAIN_S",
            "JITNEY_BACKGROUND_DRAIN_S",
            "JITNEY_WEBHOOK_POLL_S",
            "JITNEY_WEBHOOK_JITTER",
            "JITNEY_BULK_STEP_S",
            "JITNEY_BULK_COLLECT_S",
        ),
        *("JITNEY_BULK_SWEEP_S", "JITNEY_BULK_POLL_S", "JITNEY_BULK_FETCH_S", "JITNEY_BULK_RETRY_S"),
    }
)

ALL_SETTINGS: Final = frozenset(COMPARED) | NOT_COMPARED

_UNORDERED_SETTINGS: Final = frozenset(
    {"JITNEY_WEBHOOK_ALLOW_CIDRS", "JITNEY_WEBHOOK_SCHEMES", "JITNEY_WEBHOOK_PORTS", "JITNEY_BULK_IMAGE_URL_PREFIXES"}
)  # comma-separated lists whose order has no meaning
_STORAGE_SETTINGS: Final = ("JITNEY_BULK_STORE", "JITNEY_BULK_IMAGE_STORE")

# `/readyz` needs no key and shows a digest in place of these values.
PRIVATE: Final = frozenset(
    {
        "JITNEY_TENANTS",
        "JITNEY_WEBHOOK_ALLOW_CIDRS",
        "JITNEY_BULK_STORE",
        "JITNEY_BULK_IMAGE_URL_PREFIXES",
        "JITNEY_BULK_IMAGE_STORE",
    }
)


def compared_values(part: Part, host: str, settings: Sequence[BaseSettings]) -> dict[str, str]:
    """Return the settings that all processes of this part must share, as text."""
    named = [(PREFIX + name.upper(), value) for group in settings for name, value in group]
    values = {name: _format_value(name, value) for name, value in named if part in COMPARED.get(name, ())}
    for name in _STORAGE_SETTINGS:
        location = values.get(name, "")
        if location and "://" not in location:
            # Hosts may mount a shared folder at different paths, so paths are compared only within a host.
            values |= {name: "a folder", f"{name} on {host}": str(Path(location).resolve())}
    return values


def redact_value(what: str, value: str) -> str:
    """Return a setting's value for public pages: a digest if the setting is private."""
    is_private = what.partition(" ")[0] in PRIVATE and value
    return f"sha256 {sha256(value.encode()).hexdigest()[:12]}" if is_private else value


def _format_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, Mapping):
        plain = {
            key: item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else item
            for key, item in value.items()
        }
        return json.dumps(plain, sort_keys=True)
    return ",".join(sorted(part.strip() for part in value.split(","))) if name in _UNORDERED_SETTINGS else str(value)
