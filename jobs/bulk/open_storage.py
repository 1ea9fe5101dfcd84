"""Opens the storage that a setting names: a folder, or an object store by its URL."""

from pathlib import Path

from jobs.bulk.local_storage import LocalStorage
from jobs.bulk.storage import Storage


def open_storage(location: str) -> Storage:
    """Open a folder, or an object store by its URL. Raises ImportError if the extra `s3` is not installed."""
    if "://" not in location:
        return LocalStorage(Path(location))
    from jobs.bulk.s3_storage import S3Storage  # noqa: PLC0415 (optional dependency)

    return S3Storage(location)
