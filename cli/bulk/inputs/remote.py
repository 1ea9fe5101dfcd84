"""Reads remote inputs: http:// and https:// URLs, and objects of S3-compatible stores."""

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore2

from cli.bulk.errors import UNREADABLE, BadItem, CannotRun
from cli.bulk.inputs.items import MAX_BYTES, InputSource, Item, invalid_item, is_junk_file, sized_item, too_large_error
from cli.extras import missing_packages

SCHEMES: Final = ("http://", "https://", "s3://")
TIMEOUT_S: Final = 30.0
MAX_REDIRECTS: Final = 3
CONNECTIONS: Final = 16
READ_AHEAD_ITEMS: Final = 64
EXPECTED_BYTES: Final = 128 << 10  # assumed size of a URL's content until it is read


def is_remote(text: str) -> bool:
    """Return whether a text is a URL that needs the network."""
    return text.startswith(SCHEMES)


def url_item(line: int, url: str, item_id: str | None = None) -> Item:
    read = partial(_read_object, url) if url.startswith("s3://") else partial(fetch, url)
    return Item(line, url, EXPECTED_BYTES, read, item_id)


def fetch(url: str) -> bytes:
    """Download a URL, with at most 3 redirects. Raises BadItem."""
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with _pool().stream("GET", url, extensions={"timeout": timeouts}) as response:
                location = {name.lower(): value for name, value in response.headers}.get(b"location")
                if 300 <= response.status < 400 and location:
                    url = _resolve_redirect(url, location.decode("latin-1"))
                    continue
                if response.status != 200:
                    raise BadItem(UNREADABLE, f"{url} returned {response.status}")
                return _read_body(url, response)
    except (httpcore2.ProtocolError, httpcore2.NetworkError, httpcore2.TimeoutException, OSError, ValueError) as error:
        raise BadItem(UNREADABLE, f"cannot read {url}: {error or type(error).__name__}") from error
    except httpcore2.UnsupportedProtocol as error:
        raise BadItem(UNREADABLE, f"{url} is not an http:// or https:// URL") from error
    raise BadItem(UNREADABLE, f"{url} redirects more than {MAX_REDIRECTS} times")


def _read_body(url: str, response: httpcore2.Response) -> bytes:
    parts, size = [], 0
    for part in response.iter_stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise too_large_error(url, size)
    return b"".join(parts)


def _resolve_redirect(url: str, location: str) -> str:
    parts = urlsplit(url)
    path = location if location.startswith("/") else f"/{location}"
    return location if "://" in location else f"{parts.scheme}://{parts.netloc}{path}"


@cache
def _pool() -> httpcore2.ConnectionPool:
    return httpcore2.ConnectionPool(max_connections=CONNECTIONS, keepalive_expiry=5)


def list_objects(url: str) -> InputSource:
    """List the objects under s3://BUCKET/PREFIX by name. Raises CannotRun."""
    store, prefix = _store(url), urlsplit(url).path.lstrip("/")
    try:
        pages = store.list(prefix or None, chunk_size=1000)
        objects = sorted((meta["path"], meta["size"]) for page in pages for meta in page)
    except Exception as error:  # obstore's errors have no common base
        raise CannotRun(f"cannot list {url}: {_error_text(error)}") from error
    bucket = f"s3://{urlsplit(url).netloc}/"
    objects = [(name, size) for name, size in objects if not name.endswith("/") and not is_junk_file(name)]

    def items() -> Iterator[Item]:
        for line, (name, size) in enumerate(objects, 1):
            yield sized_item(line, bucket + name, size, partial(_read_object, bucket + name))

    return InputSource(items, len(objects), is_remote=True)


def _read_object(url: str) -> bytes:
    try:
        return bytes(_store(url).get(urlsplit(url).path.lstrip("/")).bytes())
    except CannotRun as error:
        raise BadItem(UNREADABLE, str(error)) from error
    except Exception as error:
        raise BadItem(UNREADABLE, f"cannot read {url}: {_error_text(error)}") from error


def _store(url: str) -> Any:
    return _bucket(urlsplit(url).netloc)


@cache
def _bucket(name: str) -> Any:
    """Open a bucket with the credentials and endpoint of AWS's usual environment variables. Raises CannotRun."""
    if hint := missing_packages("s3", "obstore"):
        raise CannotRun(f"reading s3:// {hint}")
    allow_http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return importlib.import_module("obstore.store").S3Store(name, client_options={"allow_http": allow_http})
    except Exception as error:
        raise CannotRun(f"cannot open s3://{name}: {_error_text(error)}") from error


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Prefetch remote items in several threads; yield them in order."""
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="read-ahead") as pool:
        pending: deque[tuple[Item, Future[bytes]]] = deque()
        try:
            for item in items:
                pending.append((item, pool.submit(item.read)))
                if len(pending) >= READ_AHEAD_ITEMS:
                    yield _with_data(*pending.popleft())
            while pending:
                yield _with_data(*pending.popleft())
        finally:
            for _, download in pending:
                download.cancel()


def _with_data(item: Item, download: Future[bytes]) -> Item:
    try:
        data = download.result()
    except BadItem as error:
        return invalid_item(item.line, item.name, error, item.id)._replace(size=item.size)  # keeps the chunks
    read: Callable[[], bytes] = lambda: data  # noqa: E731
    return item._replace(read=read)
