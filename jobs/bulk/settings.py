"""What the gateway and whoever takes bulks forward must agree on, from the environment."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pydantic import Field, field_validator

from jobs.bulk.url_prefixes import UrlPrefixes
from jobs.config.settings_base import Settings

STORE: Final = re.compile(r"s3://[^/]+(/.*)?")


class BulkSettings(Settings):
    """Settings of bulks and their files."""

    bulk_store: str = Field(
        ".data/bulk", description="where files and results of bulks are kept: a folder, or s3://bucket/prefix"
    )
    bulk_file_bytes: int = Field(4 << 30, gt=0, description="largest file of a bulk")
    bulk_line_bytes: int = Field(32 << 20, gt=0, description="longest line of it")
    bulk_lines: int = Field(2_000_000, gt=0, description="most lines of it, blank ones counted")
    bulk_files: int = Field(1000, gt=0, description="files of one tenant that are kept, results among them")
    bulk_batches: int = Field(1000, gt=0, description="bulks of one tenant that are kept")
    bulk_ttl_s: int = Field(2_592_000, ge=1, description="how long files and bulks are kept (30 days)")
    bulk_upload_rate: int = Field(
        32 << 10, gt=0, description="bytes in a second that an upload must bring, beside JITNEY_BODY_TIMEOUT_S"
    )
    bulk_in_flight: int = Field(
        4000, ge=1, description="lines of all open bulks that are jobs, or outcomes not yet stored, at a time"
    )
    bulk_in_flight_bytes: int = Field(64 << 20, ge=1, description="bytes of them, likewise")
    bulk_chunk: int = Field(500, ge=1, le=5000, description="lines, or outcomes, between two checkpoints")
    bulk_concurrency: int = Field(
        2,
        ge=1,
        le=64,
        description="bulks that one delivering process takes forward at a time; "
        "one tenant leaves half of several to others",
    )
    bulk_step_s: float = Field(2, gt=0, description="longest time of one step; then another bulk has its turn")
    bulk_step_lease_s: float = Field(15, gt=0, description="a step of which nothing is heard for so long is made again")
    bulk_retry_s: float = Field(
        2, gt=0, description="rest of a bulk that cannot go on; after each unexpected failure in a row twice as long"
    )
    bulk_step_tries: int = Field(
        5, ge=1, description="a bulk fails for good when so many of its steps in a row failed unexpectedly"
    )
    bulk_end_s: float = Field(
        60, gt=0, description="a cancelled or expired bulk that cannot go on (no storage) is closed after so long"
    )
    bulk_collect_s: float = Field(
        1, gt=0, description="results are stored this often at least, and so seen; later in the life of a long bulk"
    )
    bulk_sweep_s: float = Field(60, gt=0, description="time between two looks for files that have expired")
    bulk_poll_s: float = Field(0.5, gt=0, description="open bulks are looked at this often even without a notice")
    bulk_image_url_prefixes: str = Field(
        "",
        description="URLs below which images in lines may lie, as https://cdn.example/photos/; commas between",
    )
    bulk_image_store: str = Field(
        "", description="where the keys of images in lines lead: a folder, or s3://bucket/prefix; empty = nowhere"
    )
    bulk_fetch_concurrency: int = Field(16, ge=1, le=256, description="such images that are fetched at a time")
    bulk_fetch_s: float = Field(10, gt=0, description="longest time to fetch one")

    @field_validator("bulk_store", "bulk_image_store")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
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
        """Give how long records are kept in the queue: longer than what they stand for."""
        return self.bulk_ttl_s + 86_400

    @field_validator("bulk_image_url_prefixes")
    @classmethod
    def _are_urls(cls, value: str) -> str:
        UrlPrefixes(_listed(value))
        return value

    def url_prefixes(self) -> list[str]:
        """List the URLs below which images are fetched."""
        return _listed(self.bulk_image_url_prefixes)


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]
