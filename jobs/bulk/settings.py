"""Settings of bulk jobs and their files, shared by the gateway and the background process."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pydantic import Field, field_validator

from jobs.bulk.url_prefixes import UrlPrefixes
from jobs.config.settings_base import Settings, split_list

STORE: Final = re.compile(r"s3://[^/]+(/.*)?")


class BulkSettings(Settings):
    """Settings of bulk jobs, from the environment."""

    bulk_store: str = Field(
        ".data/bulk", description="storage of bulk files and results: a folder, or s3://bucket/prefix"
    )
    bulk_file_bytes: int = Field(4 << 30, gt=0, description="largest input file of a bulk job, in bytes")
    bulk_line_bytes: int = Field(32 << 20, gt=0, description="longest line of an input file, in bytes")
    bulk_lines: int = Field(2_000_000, gt=0, description="most lines of an input file, including blank ones")
    bulk_files: int = Field(1000, gt=0, description="files kept per tenant, including result files")
    bulk_batches: int = Field(1000, gt=0, description="bulk jobs kept per tenant")
    bulk_ttl_s: int = Field(2_592_000, ge=1, description="how long files and bulk jobs are kept (30 days)")
    bulk_upload_rate: int = Field(
        32 << 10, gt=0, description="slowest upload, in bytes per second, in addition to JITNEY_BODY_TIMEOUT_S"
    )
    bulk_in_flight: int = Field(
        4000, ge=1, description="lines of all open bulk jobs in flight: queued, running, or with an outcome not stored"
    )
    bulk_in_flight_bytes: int = Field(64 << 20, ge=1, description="bytes of lines in flight")
    bulk_chunk: int = Field(500, ge=1, le=5000, description="lines or outcomes per checkpoint")
    bulk_concurrency: int = Field(
        2,
        ge=1,
        le=64,
        description="bulk jobs that one background process runs at a time; "
        "one tenant uses at most half of them while others wait",
    )
    bulk_step_s: float = Field(2, gt=0, description="longest time of one step, before another bulk job gets a step")
    bulk_step_lease_s: float = Field(15, gt=0, description="a step without a sign of life for this long is repeated")
    bulk_retry_s: float = Field(
        2, gt=0, description="pause of a bulk job that is stuck; doubled after each consecutive unexpected failure"
    )
    bulk_step_tries: int = Field(
        5, ge=1, description="consecutive unexpected failures of a step after which a bulk job fails for good"
    )
    bulk_end_s: float = Field(
        60, gt=0, description="a cancelled or expired bulk job that is stuck (no storage) is closed after this long"
    )
    bulk_collect_s: float = Field(
        1, gt=0, description="interval at which results are stored; grows with the running time of a bulk job"
    )
    bulk_sweep_s: float = Field(60, gt=0, description="time between two sweeps for expired files")
    bulk_poll_s: float = Field(0.5, gt=0, description="time between two polls for open bulk jobs")
    bulk_image_url_prefixes: str = Field(
        "",
        description="URL prefixes of images that lines may name, such as https://cdn.example/photos/; comma-separated",
    )
    bulk_image_store: str = Field(
        "", description="storage of images that lines name by key: a folder, or s3://bucket/prefix; empty = none"
    )
    bulk_fetch_concurrency: int = Field(16, ge=1, le=256, description="images fetched at a time")
    bulk_fetch_s: float = Field(10, gt=0, description="timeout of fetching one image")

    @field_validator("bulk_store", "bulk_image_store")
    @classmethod
    def _check_location(cls, value: str) -> str:
        if "://" not in value:
            if Path(value).is_file():
                message = "is a file; must be a folder, or s3://bucket/prefix"
                raise ValueError(message)
            return value
        if not STORE.fullmatch(value):
            message = "must be a folder, or s3://bucket/prefix"
            raise ValueError(message)
        if find_spec("obstore") is None:
            message = "an object store needs the extra s3: pip install 'jitney[s3]'"
            raise ValueError(message)
        return value

    @property
    def kept_s(self) -> int:
        """How long records are kept in Redis: a day longer than the files and bulk jobs."""
        return self.bulk_ttl_s + 86_400

    @field_validator("bulk_image_url_prefixes")
    @classmethod
    def _check_url_prefixes(cls, value: str) -> str:
        UrlPrefixes(split_list(value))
        return value

    def url_prefixes(self) -> list[str]:
        """Return the URL prefixes from which images may be fetched."""
        return split_list(self.bulk_image_url_prefixes)
