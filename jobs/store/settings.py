"""Settings of the job store and of webhook addresses, shared by gateways, workers and background processes."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from jobs.config.settings_base import Settings, environment_names, split_list
from jobs.contract.address_policy import PORTS, AddressPolicy, parse_networks
from jobs.redis_client import redis_url
from jobs.tenants.limits import LimitOverride, Limits, TenantLimits, read_overrides


class StoreSettings(Settings):
    """Settings of the job store."""

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=environment_names("REDIS_URL"),
        description="URL of the Redis server of the queue: redis://, rediss:// or unix://",
    )
    redis_url_file: Path | None = Field(
        None, description="file that contains this URL, read for each connection; overrides JITNEY_REDIS_URL"
    )
    require_durable: bool = Field(
        default=False, description="refuse a Redis server that may lose jobs: at start, and for new jobs later"
    )
    shards: int = Field(1, ge=1, le=99, description="shards of the jobs; more than one only for Redis Cluster")
    result_ttl_s: float = Field(3600, gt=0, description="how long a finished job can be read")
    output_chunk_bytes: int = Field(
        1 << 20, ge=32 << 10, le=64 << 20, description="larger outputs are stored in chunks of this size"
    )
    output_watermark: float = Field(
        0.7, gt=0, le=1, description="share of Redis' memory above which outputs of several chunks are not stored"
    )
    idempotency_ttl_s: int = Field(
        86_400, gt=0, description="how long an Idempotency-Key is remembered; longer if the job's deadline is later"
    )
    job_list_limit: int = Field(10_000, ge=1, description="most jobs of a tenant that can be listed, the newest")
    max_jobs: int = Field(
        1_000_000, ge=1, description="open (queued or running) jobs per model, by their rows; bulk may use nine tenths"
    )
    max_input_bytes: int = Field(2 << 30, ge=1, description="bytes of their inputs; bulk may use nine tenths")
    lease_s: float = Field(20, gt=0, description="how long a claimed job stays with a worker that does not renew it")
    max_lost_leases: int = Field(5, ge=1, description="lost leases after which a job fails for good")
    max_kills: int = Field(3, ge=1, description="runs that killed their worker after which a job fails as poison")
    suspect_cooldown_s: float = Field(
        3, ge=0.001, description="pause after an isolated run that killed its worker, so that the worker can restart"
    )
    dead_letter_ttl_s: float = Field(604_800, gt=0, description="how long a dead letter is kept (7 days)")
    dead_letters: int = Field(
        1000, ge=1, description="dead letters kept; above this the tenant that holds most loses its oldest"
    )
    dead_letter_bytes: int = Field(256 << 20, ge=1, description="bytes of their inputs; above this likewise")
    bulk_share: int = Field(8, ge=1, description="while both lanes have jobs, one slot in this many is for bulk")
    tenant_requests: int = Field(
        0, ge=0, description="requests per tenant and gateway in JITNEY_TENANT_WINDOW_S; 0 = no limit, as below"
    )
    tenant_window_s: float = Field(60, gt=0, description="window of JITNEY_TENANT_REQUESTS")
    tenant_jobs: int = Field(0, ge=0, description="open (queued or running) jobs per tenant")
    tenant_bytes: int = Field(0, ge=0, description="bytes of their inputs, and of the outputs that are kept")
    tenant_running: int = Field(0, ge=0, description="running jobs per tenant")
    tenants: Annotated[dict[str, LimitOverride], NoDecode, BeforeValidator(read_overrides)] = Field(
        {}, description="JSON: limits of single tenants: weight (1), requests, jobs, bytes, running"
    )
    redis_timeout_s: float = Field(1.5, gt=0, description="timeout of one reply of Redis")

    @model_validator(mode="after")
    def _check_redis_url(self) -> Self:
        redis_url.find_address(
            {"JITNEY_REDIS_URL": self.redis_url, "JITNEY_REDIS_URL_FILE": str(self.redis_url_file or "")}
        )
        return self

    def limits(self) -> TenantLimits:
        """Return the limits of all tenants."""
        default = Limits(1, self.tenant_requests, self.tenant_jobs, self.tenant_bytes, self.tenant_running)
        return TenantLimits(default, self.tenants, self.shards)


class AddressPolicySettings(Settings):
    """Allowed webhook targets: the gateway checks them at submit, the background process at each attempt."""

    webhook_allow_cidrs: str = Field(
        "", description="private networks that webhooks may reach, on any port: comma-separated CIDRs"
    )
    webhook_schemes: str = Field("https,http", description="schemes of webhooks; https alone keeps results encrypted")
    webhook_ports: str = Field("80,443,8080,8443", description="ports of public receivers")

    @field_validator("webhook_allow_cidrs")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("webhook_schemes")
    @classmethod
    def _check_schemes(cls, value: str) -> str:
        if not set(split_list(value)) <= set(PORTS) or not value:
            message = "must be https, or https,http"
            raise ValueError(message)
        return value

    @field_validator("webhook_ports")
    @classmethod
    def _check_ports(cls, value: str) -> str:
        if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65_536 for port in split_list(value)):
            message = "must be ports from 1 to 65535, comma-separated"
            raise ValueError(message)
        return value

    def address_policy(self) -> AddressPolicy:
        """Return the address policy of these settings."""
        ports = {int(port) for port in split_list(self.webhook_ports)}
        return AddressPolicy(parse_networks(self.webhook_allow_cidrs), split_list(self.webhook_schemes), ports)
