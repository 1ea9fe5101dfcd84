"""Defines the settings of a gateway process, read from `JITNEY_…` environment variables."""

from pydantic import Field, ValidationInfo, field_validator

from api.asgi.cors import read_origins
from api.auth.authentication import AnonymousAccess
from jobs.config.logs import LogFormat, LogLevel
from jobs.config.settings_base import SETTINGS_CONFIG, environment_names
from jobs.store.settings import AddressPolicySettings


class GatewaySettings(AddressPolicySettings):
    model_config = SETTINGS_CONFIG

    host: str = Field(
        "127.0.0.1",
        description="address to listen on; callers need an API key on any but loopback, see JITNEY_ALLOW_ANONYMOUS",
    )
    allow_anonymous: AnonymousAccess = Field(
        "loopback",
        description="callers accepted while there are no API keys: loopback (this machine only), anyone or nobody",
    )
    cors_origins: str = Field(
        "",
        description="origins whose pages may call, with commas between; `*`: any page with an API key or a read token",
    )
    port: int = Field(
        8000,
        ge=0,
        le=65_535,
        validation_alias=environment_names("PORT"),
        description="port to listen on; 0 = any free port, printed",
    )
    grpc_port: int = Field(
        0, ge=0, le=65_535, description="port of the Open Inference Protocol over gRPC, on the same address; 0 = off"
    )
    default_model: str = Field("", description="model of requests that name none, when several are served")
    max_body_bytes: int = Field(32 << 20, gt=0, description="maximum size of a request body in bytes")
    max_buffered_body_bytes: int = Field(
        256 << 20,
        gt=0,
        description="maximum bytes of request bodies in memory at a time; the process needs four times as much",
    )
    max_buffered_output_bytes: int = Field(
        128 << 20, gt=0, description="maximum bytes of large outputs in memory that are being sent"
    )
    max_jobs_per_request: int = Field(1000, gt=0, description="maximum number of jobs in one request")
    memory_watermark: float = Field(
        0.8, gt=0, le=1, description="share of Redis' memory above which new jobs are refused"
    )
    max_wait_s: float = Field(
        58, gt=0, description="maximum time a request waits for jobs; keep it below your proxy's timeout (often 60 s)"
    )
    predict_wait_s: float = Field(30, gt=0, description="maximum time POST /predict waits for its job")
    disconnect_cancels: bool = Field(
        default=True,
        description="cancel jobs of /predict, /v2/…/infer and gRPC without Idempotency-Key when the caller disconnects",
    )
    header_timeout_s: float = Field(10, gt=0, description="maximum time to receive the head of a request")
    body_timeout_s: float = Field(30, gt=0, description="maximum time to receive the body of a request")
    send_timeout_s: float = Field(
        30, gt=0, description="reset a connection whose caller has read nothing of a response for this long"
    )
    keepalive_timeout_s: float = Field(
        75, gt=0, description="maximum idle time of a connection; keep it above your proxy's timeout"
    )
    max_header_bytes: int = Field(64 << 10, ge=1024, description="maximum bytes of a request's line and header fields")
    max_connections: int = Field(
        10_000, gt=0, description="maximum connections of one gateway; beyond it the longest idle one is closed"
    )
    max_buffers_bytes: int = Field(
        256 << 20,
        gt=0,
        description="maximum bytes of unread requests and unsent responses; beyond it connections are reset",
    )
    max_waiters: int = Field(
        100_000, gt=0, description="maximum jobs that multi-job requests wait for at a time, in one gateway process"
    )
    max_deadline_ms: int = Field(86_400_000, gt=0, description="default and maximum deadline of a job")
    lame_duck_s: float = Field(
        0,
        ge=0,
        le=3600,
        description="time on SIGTERM in which requests are still served while /readyz returns 503, for load balancers",
    )
    sweep_interval_s: float = Field(
        1.5, gt=0, description="time between two sweeps for lost and overdue jobs; deadlines are exact to this time"
    )
    sse_keepalive_s: float = Field(15, gt=0, description="time between two keepalive comments of an idle event stream")
    max_streams: int = Field(
        100,
        gt=0,
        description="maximum open event streams, and as many gRPC streams, of one tenant in one gateway process",
    )
    wait_recheck_s: float = Field(
        5, gt=0, description="time between two reads of all awaited jobs, in case a notification was lost"
    )
    model_refresh_s: float = Field(2, gt=0, description="time between two reads of the models that workers announce")
    rollback_errors: float = Field(
        0.1,
        ge=0,
        le=1,
        description="roll back a version whose share of failed jobs exceeds its predecessor's by this much; 0 = never",
    )
    rollback_jobs: int = Field(20, ge=1, description="minimum number of finished jobs before a version is judged")
    rollback_watch_s: float = Field(
        600, ge=0, description="time after a version took over in which it may be rolled back automatically"
    )
    api_key_refresh_s: float = Field(
        2, gt=0, description="time between two refreshes of the API keys; a notification usually brings changes at once"
    )
    metrics_flush_s: float = Field(1, gt=0, description="time between two writes of metrics to Redis")
    webhook_secret_overlap_s: float = Field(
        86_400, gt=0, description="time after a secret rotation in which webhooks are also signed with the old secret"
    )
    log_level: LogLevel = Field("info", description="debug, info, warning or error")
    log_format: LogFormat = Field("text", description="text or json: one line, or one JSON object, a message")
    access_log: bool = Field(default=False, description="log each request: method, path, status, time, tenant and id")

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        read_origins(value)
        return value

    @field_validator("max_buffered_body_bytes")
    @classmethod
    def _validate_buffer_size(cls, value: int, info: ValidationInfo) -> int:
        largest = info.data.get("max_body_bytes", 0)
        if value < largest:
            raise ValueError(f"must be at least JITNEY_MAX_BODY_BYTES, {largest}")
        return value
