"""What gateway and worker must agree on: where the queue is, and how long things live. Every time is a setting."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from jobs.config.settings_base import Settings, environment_names
from jobs.contract.address_policy import PORTS, AddressPolicy, parse_networks
from jobs.redis_client import redis_url
from jobs.tenants.limits import LimitOverride, Limits, TenantLimits, read_overrides


class StoreSettings(Settings):
    """Settings of the job store, from the environment."""

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=environment_names("REDIS_URL"),
        description="the queue's server: redis://, rediss:// or unix://",
    )
    redis_url_file: Path | None = Field(
        None, description="a file that holds this URL, read again with each connection; it overrules JITNEY_REDIS_URL"
    )
    require_durable: bool = Field(
        default=False,
        description="refuse a queue's server that may lose jobs: at start, and new jobs after that",
    )
    shards: int = Field(1, ge=1, le=99, description="slots the jobs are spread over; more than one only for a Cluster")
    result_ttl_s: float = Field(3600, gt=0, description="how long a final job can be read")
    idempotency_ttl_s: int = Field(
        86_400, gt=0, description="how long an Idempotency-Key stands for its job; longer where the deadline is later"
    )
    job_list_limit: int = Field(10_000, ge=1, description="newest jobs of a tenant that can be listed")
    max_jobs: int = Field(
        1_000_000, ge=1, description="jobs of one model that may wait or run; bulk stops at nine tenths"
    )
    max_input_bytes: int = Field(2 << 30, ge=1, description="bytes of their inputs, likewise")
    lease_s: float = Field(20, gt=0, description="how long a claimed job stays with a worker that says nothing")
    max_lost_leases: int = Field(5, ge=1, description="lost workers after which a job fails for good")
    max_kills: int = Field(3, ge=1, description="runs that killed their worker after which a job fails as poison")
    suspect_cooldown_s: float = Field(
        3,
        ge=0.001,
        description="after a trial that killed its worker, so long until the next: it has time to come back",
    )
    dead_letter_ttl_s: float = Field(604_800, gt=0, description="how long a dead letter is kept (7 days)")
    dead_letters: int = Field(
        1000, ge=1, description="dead letters kept; beyond, the tenant that holds most loses its oldest"
    )
    dead_letter_bytes: int = Field(256 << 20, ge=1, description="bytes of their inputs, likewise")
    bulk_share: int = Field(8, ge=1, description="while both lanes wait, one seat in so many is bulk's")
    tenant_requests: int = Field(
        0,
        ge=0,
        description="requests of one tenant that one gateway takes in JITNEY_TENANT_WINDOW_S; 0 = no limit, as below",
    )
    tenant_window_s: float = Field(60, gt=0, description="the time for so many requests")
    tenant_jobs: int = Field(0, ge=0, description="jobs of one tenant that may wait or run")
    tenant_bytes: int = Field(0, ge=0, description="bytes of their inputs, likewise")
    tenant_running: int = Field(0, ge=0, description="jobs of one tenant that may run at a time")
    tenants: Annotated[dict[str, LimitOverride], NoDecode, BeforeValidator(read_overrides)] = Field(
        {}, description="JSON: what is otherwise for some tenants: weight (1), requests, jobs, bytes, running"
    )
    redis_timeout_s: float = Field(1.5, gt=0, description="longest wait for one answer of the queue's server")

    @model_validator(mode="after")
    def _has_a_good_url(self) -> Self:
        redis_url.find_address(
            {"JITNEY_REDIS_URL": self.redis_url, "JITNEY_REDIS_URL_FILE": str(self.redis_url_file or "")}
        )
        return self

    def limits(self) -> TenantLimits:
        """Give what each tenant may take."""
        default = Limits(1, self.tenant_requests, self.tenant_jobs, self.tenant_bytes, self.tenant_running)
        return TenantLimits(default, self.tenants, self.shards)


class AddressPolicySettings(Settings):
    """Where webhooks may go: what the gateway checks at submit, and whoever delivers with each attempt."""

    webhook_allow_cidrs: str = Field(
        "", description="private networks whose receivers are spoken to, on any port: CIDRs with commas between"
    )
    webhook_schemes: str = Field(
        "https,http", description="schemes of webhooks; https alone keeps results off the wire"
    )
    webhook_ports: str = Field("80,443,8080,8443", description="ports of public receivers")

    @field_validator("webhook_allow_cidrs")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("webhook_schemes")
    @classmethod
    def _are_schemes(cls, value: str) -> str:
        if not set(_split_list(value)) <= set(PORTS) or not value:
            message = "must be https, or https,http"
            raise ValueError(message)
        return value

    @field_validator("webhook_ports")
    @classmethod
    def _are_ports(cls, value: str) -> str:
        if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65_536 for port in _split_list(value)):
            message = "must be ports, 1 to 65535, with commas between"
            raise ValueError(message)
        return value

    def address_policy(self) -> AddressPolicy:
        """Give the rules in the form that checks addresses."""
        ports = {int(port) for port in _split_list(self.webhook_ports)}
        return AddressPolicy(parse_networks(self.webhook_allow_cidrs), _split_list(self.webhook_schemes), ports)


def _split_list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
