"""Settings of the background process: rq, webhooks, shutdown; those of bulk jobs are in `jobs/bulk/settings.py`."""

import re
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from jobs.config.logs import LogFormat, LogLevel
from jobs.config.settings_base import MAX_SECONDS, SETTINGS_CONFIG
from jobs.redis_client import redis_url
from jobs.store.settings import AddressPolicySettings
from jobs.webhooks.outbox import DeliveryLimits, Lane


class BackgroundSettings(AddressPolicySettings):
    model_config = SETTINGS_CONFIG

    rq_redis_url: str = Field("", description="Redis server that rq uses; empty = JITNEY_REDIS_URL")
    rq_redis_url_file: Path | None = Field(None, description="file that holds this URL; overrides JITNEY_RQ_REDIS_URL")
    webhook_concurrency: int = Field(
        24,
        ge=1,
        le=256,
        description="concurrent attempts to endpoints that respond in time; "
        "a quarter is reserved for tenants with no attempt under way",
    )
    webhook_slow_concurrency: int = Field(
        8, ge=1, le=256, description="concurrent attempts to slow endpoints, in addition"
    )
    webhook_schedule: str = Field(
        "0,5,300,1800,7200,18000,36000,36000",
        description="delays before each attempt, in seconds: 8 attempts within 28 hours",
    )
    webhook_jitter: float = Field(0.2, ge=0, lt=1, description="each delay varies randomly by up to this share")
    webhook_timeout_s: float = Field(
        15, gt=0, description="timeout of one attempt, from the DNS lookup to the response"
    )
    webhook_slow_s: float = Field(
        5, gt=0, description="an endpoint that takes this long to respond counts as slow until it responds faster"
    )
    webhook_lease_s: float = Field(
        30,
        gt=0,
        description="an attempt without a result after this time is made again: its process is considered dead",
    )
    webhook_per_host: int = Field(
        4, ge=1, description="concurrent attempts to one endpoint; 1 until the endpoint has succeeded once"
    )
    webhook_backlog: int = Field(
        20_000, ge=1, description="deliveries that may wait for one endpoint; the oldest beyond this limit fail"
    )
    webhook_tenant_backlog: int = Field(
        50_000,
        ge=1,
        description="deliveries of one tenant that may wait, for all endpoints; the oldest beyond this limit fail",
    )
    webhook_pause_after_s: float = Field(
        432_000,
        gt=0,
        description="an endpoint that fails for this long (5 days) is paused: its deliveries fail at once",
    )
    webhook_pause_s: float = Field(3600, gt=0, description="a paused endpoint gets one trial delivery after this time")
    webhook_log: int = Field(
        10_000, ge=1, description="deliveries kept per tenant, and endpoints; the oldest that ended are removed first"
    )
    webhook_log_ttl_s: float = Field(604_800, gt=0, description="retention of a delivery after it has ended (7 days)")
    webhook_poll_s: float = Field(1, gt=0, description="interval of outbox polls, in addition to notifications")
    public_url: str = Field(
        "", description="base URL of links in webhooks, such as https://jitney.example; empty: /v1/…"
    )
    background_drain_s: float = Field(2, gt=0, description="on SIGTERM: time to finish the attempts under way")
    default_model: str = Field("", description="model for bulk lines that name none, if several are served")
    metrics_flush_s: float = Field(1, gt=0, description="time between two writes of metrics to Redis")
    log_level: LogLevel = Field("info", description="debug, info, warning or error")
    log_format: LogFormat = Field("text", description="text or json: one line, or one JSON object, a message")

    @field_validator("webhook_schedule")
    @classmethod
    def _check_schedule(cls, value: str) -> str:
        message = f"must be seconds, from 0 to {MAX_SECONDS:.0f}, with commas between"
        try:
            delays = [float(text) for text in value.split(",")]
        except ValueError as error:
            raise ValueError(message) from error
        if not all(0 <= delay <= MAX_SECONDS for delay in delays):
            raise ValueError(message)
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
            raise ValueError("must begin as https://jitney.example")
        return value

    @field_validator("webhook_lease_s")
    @classmethod
    def _check_lease(cls, value: float, info: ValidationInfo) -> float:
        timeout_s = info.data.get("webhook_timeout_s", 0)
        if value <= timeout_s:
            raise ValueError(f"must be longer than JITNEY_WEBHOOK_TIMEOUT_S, {timeout_s:g}")
        return value

    @model_validator(mode="after")
    def _check_rq_url(self) -> Self:
        self.rq_address()
        return self

    def rq_address(self) -> redis_url.RedisAddress | None:
        """Return the address of rq's server, or None if rq uses the queue's server; raises ValueError."""
        urls = {"JITNEY_RQ_REDIS_URL": self.rq_redis_url, "JITNEY_RQ_REDIS_URL_FILE": str(self.rq_redis_url_file or "")}
        return redis_url.find_address(urls, "JITNEY_RQ_REDIS_URL")

    @property
    def schedule(self) -> tuple[float, ...]:
        return tuple(float(text) for text in self.webhook_schedule.split(","))

    def slots(self, lane: Lane) -> int:
        return self.webhook_concurrency if lane == "fast" else self.webhook_slow_concurrency

    @property
    def limits(self) -> DeliveryLimits:
        ms = {name: int(seconds * 1000) for name, seconds in self if isinstance(seconds, float)}
        return DeliveryLimits(
            lease_ms=ms["webhook_lease_s"],
            stall_ms=max(1, min(1000, int(self.webhook_timeout_s * 250))),
            max_waiting=self.webhook_backlog,
            max_waiting_of_tenant=self.webhook_tenant_backlog,
            room=self.webhook_per_host,
            pause_after_ms=ms["webhook_pause_after_s"],
            pause_ms=ms["webhook_pause_s"],
            log=self.webhook_log,
            ttl_ms=ms["webhook_log_ttl_s"],
        )
