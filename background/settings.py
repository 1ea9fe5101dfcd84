"""What delivering needs to know, from the environment. Every time is a setting, so that tests run days in seconds."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from jobs.config.settings_base import MAX_SECONDS, SETTINGS_CONFIG
from jobs.redis_client import redis_url
from jobs.store.settings import AddressPolicySettings
from jobs.webhooks.outbox import DeliveryLimits, Lane


class BackgroundSettings(AddressPolicySettings):
    """Settings of one delivering process."""

    model_config = SETTINGS_CONFIG

    rq_redis_url: str = Field(
        "",
        description="the server that carries attempts to their threads; empty = JITNEY_REDIS_URL",
    )
    rq_redis_url_file: Path | None = Field(
        None, description="a file that holds this URL, likewise; it overrules JITNEY_RQ_REDIS_URL"
    )
    webhook_concurrency: int = Field(
        24,
        ge=1,
        le=256,
        description="attempts at a time, to endpoints that answer in time; "
        "a quarter is for tenants that have none under way",
    )
    webhook_slow_concurrency: int = Field(
        8, ge=1, le=256, description="and to those that do not: they take no seat from the others"
    )
    webhook_schedule: str = Field(
        "0,5,300,1800,7200,18000,36000,36000", description="seconds before each attempt: 8 within 28 hours"
    )
    webhook_jitter: float = Field(
        0.2, ge=0, lt=1, description="each of these waits is longer or shorter by up to this share"
    )
    webhook_timeout_s: float = Field(
        15, gt=0, description="longest time of one attempt, from the name's look-up to the answer"
    )
    webhook_slow_s: float = Field(
        5, gt=0, description="an endpoint that takes so long counts as slow until it is faster"
    )
    webhook_lease_s: float = Field(
        30, gt=0, description="an attempt of which nothing is heard for so long is made again: its process is gone"
    )
    webhook_per_host: int = Field(
        4, ge=1, description="attempts at a time to one endpoint; 1 until it has answered well"
    )
    webhook_backlog: int = Field(
        20_000, ge=1, description="deliveries that may wait for one endpoint; the oldest beyond fail"
    )
    webhook_tenant_backlog: int = Field(
        50_000,
        ge=1,
        description="deliveries of one tenant that may wait, for all its endpoints; the oldest beyond fail",
    )
    webhook_pause_after_s: float = Field(
        432_000, gt=0, description="an endpoint that fails for so long (5 days) is paused: its deliveries fail at once"
    )
    webhook_pause_s: float = Field(3600, gt=0, description="after so long a paused endpoint is tried with one delivery")
    webhook_log: int = Field(
        10_000, ge=1, description="deliveries of a tenant that are kept, and endpoints; older ones that ended make room"
    )
    webhook_log_ttl_s: float = Field(
        604_800, gt=0, description="how long a delivery is kept after it has ended (7 days)"
    )
    webhook_poll_s: float = Field(1, gt=0, description="the outbox is looked at this often even without a notice")
    public_url: str = Field(
        "", description="what links in webhooks begin with, as https://jitney.example; empty: /v1/…"
    )
    background_drain_s: float = Field(2, gt=0, description="on SIGTERM: longest time to end the attempts under way")
    default_model: str = Field("", description="model for lines of bulks that name none, where several are served")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    @field_validator("webhook_schedule")
    @classmethod
    def _is_a_schedule(cls, value: str) -> str:
        message = f"must be seconds, from 0 to {MAX_SECONDS:.0f}, with commas between"
        try:
            waits = [float(one) for one in value.split(",")]
        except ValueError as error:
            raise ValueError(message) from error
        if not all(0 <= wait <= MAX_SECONDS for wait in waits):
            raise ValueError(message)
        return value

    @field_validator("public_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
            message = "must begin as https://jitney.example"
            raise ValueError(message)
        return value

    @field_validator("webhook_lease_s")
    @classmethod
    def _outlasts_an_attempt(cls, value: float, info: ValidationInfo) -> float:
        timeout_s = info.data.get("webhook_timeout_s", 0)
        if value <= timeout_s:
            message = f"must be longer than JITNEY_WEBHOOK_TIMEOUT_S, {timeout_s:g}"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _has_a_good_url(self) -> Self:
        self.rq_address()
        return self

    def rq_address(self) -> redis_url.RedisAddress | None:
        """Give where rq's server is; None: where the queue is. Raises ValueError."""
        named = {
            "JITNEY_RQ_REDIS_URL": self.rq_redis_url,
            "JITNEY_RQ_REDIS_URL_FILE": str(self.rq_redis_url_file or ""),
        }
        return redis_url.find_address(named, "JITNEY_RQ_REDIS_URL")

    @property
    def schedule(self) -> tuple[float, ...]:
        """Seconds before each attempt, the first among them."""
        return tuple(float(one) for one in self.webhook_schedule.split(","))

    def slots(self, lane: Lane) -> int:
        """Count the attempts at a time in one lane."""
        return self.webhook_concurrency if lane == "fast" else self.webhook_slow_concurrency

    @property
    def limits(self) -> DeliveryLimits:
        """Give the rules that the outbox keeps."""
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
