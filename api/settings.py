"""What the gateway needs to know, from the environment."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from api.auth.authentication import AnonymousAccess
from jobs.config.settings_base import SETTINGS_CONFIG, environment_names
from jobs.store.settings import AddressPolicySettings


class GatewaySettings(AddressPolicySettings):
    """Settings of one gateway process."""

    model_config = SETTINGS_CONFIG

    host: str = Field(
        "127.0.0.1",
        description="address to listen on; beyond loopback callers need an API key, see JITNEY_ALLOW_ANONYMOUS",
    )
    allow_anonymous: AnonymousAccess = Field(
        "loopback",
        description="who may call while there are no API keys: loopback (whoever is on this machine), anyone or nobody",
    )
    port: int = Field(
        8000,
        ge=0,
        le=65_535,
        validation_alias=environment_names("PORT"),
        description="port to listen on; 0 = a free one, printed",
    )
    default_model: str = Field("", description="model for requests that name none, where several are served")
    max_body_bytes: int = Field(32 << 20, gt=0, description="largest request body")
    max_buffered_body_bytes: int = Field(
        256 << 20, gt=0, description="bytes of request bodies held at a time; the process needs four times as much"
    )
    max_jobs_per_request: int = Field(1000, gt=0, description="jobs of one request that brings many")
    memory_watermark: float = Field(
        0.8, gt=0, le=1, description="share of the queue server's memory above which new jobs are refused"
    )
    max_wait_s: float = Field(
        58,
        gt=0,
        description="longest wait of one request; longer wishes are cut to it; below 60 s, when most proxies give up",
    )
    predict_wait_s: float = Field(30, gt=0, description="longest wait of POST /predict")
    predict_hangup_cancels: bool = Field(
        default=True, description="who hangs up on POST /predict without an Idempotency-Key has the job canceled"
    )
    header_timeout_s: float = Field(10, gt=0, description="longest time to receive one request's head")
    body_timeout_s: float = Field(30, gt=0, description="longest time to receive one request's body")
    send_timeout_s: float = Field(
        30, gt=0, description="a caller who takes nothing of an answer for so long is cut off"
    )
    keepalive_timeout_s: float = Field(
        75, gt=0, description="a connection without a next request is closed after so long; keep it above a proxy's"
    )
    max_header_bytes: int = Field(
        64 << 10, ge=1024, description="largest head of a request: its line and header fields"
    )
    max_connections: int = Field(
        10_000,
        gt=0,
        description="connections that one gateway holds at a time; beyond it the one that is idle longest is closed",
    )
    max_buffers_bytes: int = Field(
        256 << 20,
        gt=0,
        description="bytes in memory of requests not read yet and answers not taken yet; beyond it callers are cut off",
    )
    max_waiters: int = Field(
        100_000, gt=0, description="jobs that requests which bring many wait for at a time, in one gateway"
    )
    max_deadline_ms: int = Field(86_400_000, gt=0, description="default and largest deadline of a job")
    lame_duck_s: float = Field(
        0,
        ge=0,
        le=3600,
        description="on SIGTERM: time in which requests are still served while /readyz is 503, for load balancers",
    )
    sweep_interval_s: float = Field(
        1.5, gt=0, description="time between two sweeps for lost and overdue jobs; deadlines are kept to it"
    )
    sse_keepalive_s: float = Field(15, gt=0, description="an event stream with nothing to tell says so this often")
    max_streams: int = Field(100, gt=0, description="event streams of one tenant open at a time")
    wait_recheck_s: float = Field(
        5, gt=0, description="jobs that are waited for are looked at this often without a notice"
    )
    model_refresh_s: float = Field(2, gt=0, description="time between two looks at what workers announce")
    rollback_errors: float = Field(
        0.1,
        ge=0,
        le=1,
        description="a version whose share of failing jobs is higher by so much than before is taken back; 0 = never",
    )
    rollback_jobs: int = Field(20, ge=1, description="jobs that it must have ended before that is said of it")
    rollback_watch_s: float = Field(
        600, ge=0, description="so long after a version took over it may still be taken back by itself"
    )
    api_key_refresh_s: float = Field(
        2, gt=0, description="time between two looks at the API keys; changes are mostly heard of at once"
    )
    metrics_flush_s: float = Field(1, gt=0, description="time between two additions to the metrics")
    webhook_secret_overlap_s: float = Field(
        86_400, gt=0, description="so long after a rotation webhooks carry a signature of the old secret too"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    @field_validator("max_buffered_body_bytes")
    @classmethod
    def _holds_the_largest(cls, value: int, info: ValidationInfo) -> int:
        largest = info.data.get("max_body_bytes", 0)
        if value < largest:
            message = f"must be at least JITNEY_MAX_BODY_BYTES, {largest}"
            raise ValueError(message)
        return value
