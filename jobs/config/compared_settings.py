"""Lists the settings that must be equal in all processes of a part, and converts values to comparable, public text.

A test fails for a setting that is in neither of the two tables.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from jobs.config.environment import PREFIX

if TYPE_CHECKING:  # `jitney up` and `jitney worker` need only the names: they start without pydantic in half the time
    from pydantic_settings import BaseSettings

Part = Literal["gateway", "worker", "background"]
_GATEWAY: Final = ("gateway",)
_WORKER: Final = ("worker",)
_BACKGROUND: Final = ("background",)
_SUBMITTERS: Final = ("gateway", "background")  # both submit jobs, read bulk files and check webhook addresses
_ALL: Final = ("gateway", "worker", "background")


def _names(text: str) -> list[str]:
    return [PREFIX + name for name in text.split()]


# Setting → the parts that use it. A process announces only the settings of its own part.
COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    # retention of finished jobs, applied by the process that finishes a job; limits of tenants
    **dict.fromkeys(_names("RESULT_TTL_S DEAD_LETTER_TTL_S DEAD_LETTERS DEAD_LETTER_BYTES REQUIRE_DURABLE"), _ALL),
    **dict.fromkeys(_names("TENANT_RUNNING TENANTS"), _ALL),
    # admission; webhook targets; storage of bulk jobs
    **dict.fromkeys(_names("MAX_JOBS MAX_INPUT_BYTES TENANT_JOBS TENANT_BYTES DEFAULT_MODEL"), _SUBMITTERS),
    **dict.fromkeys(_names("WEBHOOK_ALLOW_CIDRS WEBHOOK_SCHEMES WEBHOOK_PORTS"), _SUBMITTERS),
    **dict.fromkeys(_names("BULK_STORE BULK_FILES BULK_TTL_S"), _SUBMITTERS),
    # limits and waits of the API, the same on every gateway; lost leases; watch over a new version
    **dict.fromkeys(
        _names("TENANT_REQUESTS TENANT_WINDOW_S IDEMPOTENCY_TTL_S JOB_LIST_LIMIT MAX_LOST_LEASES"), _GATEWAY
    ),
    **dict.fromkeys(
        _names("ALLOW_ANONYMOUS MAX_BODY_BYTES MAX_JOBS_PER_REQUEST MAX_DEADLINE_MS MAX_STREAMS"), _GATEWAY
    ),
    **dict.fromkeys(_names("CORS_ORIGINS MAX_WAIT_S PREDICT_WAIT_S DISCONNECT_CANCELS MEMORY_WATERMARK"), _GATEWAY),
    **dict.fromkeys(_names("ROLLBACK_ERRORS ROLLBACK_JOBS ROLLBACK_WATCH_S WEBHOOK_SECRET_OVERLAP_S"), _GATEWAY),
    **dict.fromkeys(_names("BULK_FILE_BYTES BULK_BATCHES"), _GATEWAY),
    # poison jobs; which worker claims what
    **dict.fromkeys(_names("MAX_KILLS SUSPECT_COOLDOWN_S BULK_SHARE SEPARATE_LONG_RUNS OUTPUT_WATERMARK"), _WORKER),
    # webhook delivery; bulk steps
    **dict.fromkeys(
        _names("WEBHOOK_SCHEDULE WEBHOOK_TIMEOUT_S WEBHOOK_SLOW_S WEBHOOK_LEASE_S PUBLIC_URL"), _BACKGROUND
    ),
    **dict.fromkeys(_names("WEBHOOK_PER_HOST WEBHOOK_BACKLOG WEBHOOK_TENANT_BACKLOG"), _BACKGROUND),
    **dict.fromkeys(_names("WEBHOOK_PAUSE_AFTER_S WEBHOOK_PAUSE_S WEBHOOK_LOG WEBHOOK_LOG_TTL_S"), _BACKGROUND),
    **dict.fromkeys(_names("BULK_LINE_BYTES BULK_LINES BULK_IMAGE_URL_PREFIXES BULK_IMAGE_STORE"), _BACKGROUND),
    **dict.fromkeys(_names("BULK_IN_FLIGHT BULK_IN_FLIGHT_BYTES BULK_STEP_LEASE_S BULK_STEP_TRIES"), _BACKGROUND),
    **dict.fromkeys(_names("BULK_END_S"), _BACKGROUND),
}

# Settings that may differ between processes or machines.
NOT_COMPARED: Final = frozenset(
    [
        *_names("SHARDS LEASE_S"),  # the first is enforced instead; each worker sets the length of its own leases
        *_names("REDIS_URL REDIS_URL_FILE RQ_REDIS_URL RQ_REDIS_URL_FILE"),  # one server may have several addresses
        *_names(
            "HOST PORT GRPC_PORT LOG_LEVEL LOG_FORMAT ACCESS_LOG MODELS_DIR SERVE_MODELS GPU_DEVICE TENSORRT_CACHE_DIR"
        ),
        # capacity of one process
        *_names("MAX_BUFFERED_BODY_BYTES MAX_BUFFERS_BYTES MAX_HEADER_BYTES MAX_CONNECTIONS MAX_WAITERS"),
        *_names("MAX_BUFFERED_OUTPUT_BYTES OUTPUT_CHUNK_BYTES"),
        *_names("CPUS DECODE_THREADS MAX_CONCURRENT_RUNS WEBHOOK_CONCURRENCY WEBHOOK_SLOW_CONCURRENCY"),
        *_names("BULK_CHUNK BULK_CONCURRENCY BULK_FETCH_CONCURRENCY BULK_UPLOAD_RATE"),
        # intervals and timeouts of one process
        *_names("HEADER_TIMEOUT_S BODY_TIMEOUT_S SEND_TIMEOUT_S KEEPALIVE_TIMEOUT_S REDIS_TIMEOUT_S"),
        *_names("SWEEP_INTERVAL_S SSE_KEEPALIVE_S WAIT_RECHECK_S MODEL_REFRESH_S API_KEY_REFRESH_S METRICS_FLUSH_S"),
        *_names("HEARTBEAT_S IDLE_POLL_S MODELS_POLL_S UNLOAD_AFTER_S RUN_STOP_TIMEOUT_S LAME_DUCK_S"),
        *_names("DRAIN_S BACKGROUND_DRAIN_S WEBHOOK_POLL_S WEBHOOK_JITTER"),
        *_names("BULK_STEP_S BULK_COLLECT_S BULK_SWEEP_S BULK_POLL_S BULK_FETCH_S BULK_RETRY_S"),
    ]
)

ALL_SETTINGS: Final = frozenset(COMPARED) | NOT_COMPARED

# comma-separated lists whose order has no meaning
_UNORDERED_SETTINGS: Final = _names(
    "WEBHOOK_ALLOW_CIDRS WEBHOOK_SCHEMES WEBHOOK_PORTS BULK_IMAGE_URL_PREFIXES CORS_ORIGINS"
)
_STORAGE_SETTINGS: Final = _names("BULK_STORE BULK_IMAGE_STORE")

# `/readyz` needs no key and shows a digest in place of these values.
PRIVATE: Final = frozenset(_names("TENANTS WEBHOOK_ALLOW_CIDRS BULK_STORE BULK_IMAGE_URL_PREFIXES BULK_IMAGE_STORE"))


def compared_values(part: Part, host: str, settings: Sequence["BaseSettings"]) -> dict[str, str]:
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
            key: item.model_dump(exclude_none=True) if hasattr(item, "model_dump") else item
            for key, item in value.items()
        }
        return json.dumps(plain, sort_keys=True)
    return ",".join(sorted(part.strip() for part in value.split(","))) if name in _UNORDERED_SETTINGS else str(value)
