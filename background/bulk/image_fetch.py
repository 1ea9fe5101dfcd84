"""Fetches images that bulk lines reference, by an allowed URL or by a key in an image store."""

import asyncio
from typing import Any, Final

import httpcore2

from background.webhooks import guarded_client
from jobs.bulk.open_storage import open_storage
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import ImageStore, storage_unavailable
from jobs.bulk.url_prefixes import UrlPrefixes
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import Refused

IMAGE_REFERENCE_FIELDS: Final = ("image_url", "image_key")
OK: Final = 200


class ImageFetcher:
    """Fetches images with limited concurrency. URLs are checked as webhooks are: no redirects, no private networks."""

    def __init__(self, settings: BulkSettings, policy: AddressPolicy) -> None:
        self._settings, self._policy = settings, policy
        self._prefixes = UrlPrefixes(settings.url_prefixes())
        self._http = guarded_client.create_client(policy, settings.bulk_fetch_concurrency)
        self._image_store = ImageStore(open_storage(settings.bulk_image_store)) if settings.bulk_image_store else None
        self._fetch_slots = asyncio.Semaphore(settings.bulk_fetch_concurrency)

    async def fetch(self, reference: dict[str, Any]) -> bytes:
        """Return the referenced image; raises Refused, and RetryLater if the operator's store cannot be reached."""
        ((field, name),) = reference.items()
        if not isinstance(name, str):
            raise Refused("invalid_request", f'field "input.{field}" must be a string', param=f"body.input.{field}")
        async with self._fetch_slots:
            return await (self._by_url(name) if field == "image_url" else self._by_key(name))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _by_key(self, key: str) -> bytes:
        if self._image_store is None:
            raise Refused("image_unavailable", "images cannot be named by key here: JITNEY_BULK_IMAGE_STORE is not set")
        try:
            async with asyncio.timeout(self._settings.bulk_fetch_s):
                return await self._image_store.read(key, self._settings.bulk_line_bytes)
        except TimeoutError as error:
            reason = f"no image after {self._settings.bulk_fetch_s:g} s (JITNEY_BULK_FETCH_S)"
            raise storage_unavailable(TimeoutError(reason)) from error

    async def _by_url(self, url: str) -> bytes:
        allowed = self._prefixes.find(url)
        if allowed is None:
            message = "this URL is below none of the prefixes in JITNEY_BULK_IMAGE_URL_PREFIXES"
            raise Refused("image_unavailable", message, allowed=self._prefixes.texts)
        try:
            target = self._policy.target(allowed)
        except Refused as error:
            raise Refused("image_unavailable", error.message) from error
        try:
            async with asyncio.timeout(self._settings.bulk_fetch_s):
                return await self._get(target.url)
        except TimeoutError as error:
            message = f"the image was not received within {self._settings.bulk_fetch_s:g} s (JITNEY_BULK_FETCH_S)"
            raise Refused("image_unavailable", message) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
            raise Refused("image_unavailable", "cannot reach the image's server") from error

    async def _get(self, url: str) -> bytes:
        limit, read = self._settings.bulk_line_bytes, bytearray()
        async with self._http.stream("GET", url, headers=[("host", url.split("/", 3)[2])]) as response:
            if response.status != OK:
                raise Refused("image_unavailable", f"the image's server responded {response.status}")
            async for block in response.aiter_stream():
                read += block
                if len(read) > limit:
                    raise Refused("body_too_large", f"an image may have at most {limit} bytes", limit_bytes=limit)
        return bytes(read)
