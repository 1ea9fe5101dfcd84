"""What lies elsewhere: URLs by HTTP, and objects in a store that speaks S3."""

import importlib
import importlib.util
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore2

from cli.bulk.errors import UNREADABLE, BadItem, CannotRun
from cli.bulk.inputs.items import MAX_BYTES, InputSource, Item, invalid_item, too_large_error
from cli.bulk.inputs.junk_files import is_junk_file

SCHEMES: Final = ("http://", "https://", "s3://")
TIMEOUT_S: Final = 30.0
MAX_REDIRECTS: Final = 3
CONNECTIONS: Final = 16
READ_AHEAD_ITEMS: Final = 64
EXPECTED_BYTES: Final = 128 << 10  # of what is behind a URL, until it is read
OBSTORE_MISSING: Final = 'reading s3:// needs obstore: pip install -e ".[s3]" in the checkout'


def is_remote(text: str) -> bool:
    """Whether it is read over a network."""
    return text.startswith(SCHEMES)


def url_item(line: int, url: str, item_id: str | None = None) -> Item:
    """Give a line whose bytes are behind a URL."""
    read = partial(_read_object, url) if url.startswith("s3://") else partial(fetch, url)
    return Item(line, url, EXPECTED_BYTES, read, item_id)


def fetch(url: str) -> bytes:
    """GET a URL, with a few redirects; raises BadItem."""
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with _pool().stream("GET", url, extensions={"timeout": timeouts}) as answer:
                if 300 <= answer.status < 400 and (to := {n.lower(): v for n, v in answer.headers}.get(b"location")):
                    url = _resolve_redirect(url, to.decode("latin-1"))
                    continue
                if answer.status != 200:
                    raise BadItem(UNREADABLE, f"{url} answers {answer.status}")
                return _body(url, answer)
    except (httpcore2.ProtocolError, httpcore2.NetworkError, httpcore2.TimeoutException, OSError, ValueError) as error:
        raise BadItem(UNREADABLE, f"{url} can not be read: {error or type(error).__name__}") from error
    except httpcore2.UnsupportedProtocol as error:
        raise BadItem(UNREADABLE, f"{url} is no http:// or https:// address") from error
    raise BadItem(UNREADABLE, f"{url} redirects more than {MAX_REDIRECTS} times")


def _body(url: str, answer: httpcore2.Response) -> bytes:
    parts, size = [], 0
    for part in answer.iter_stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise too_large_error(url, size)
    return b"".join(parts)


def _resolve_redirect(url: str, to: str) -> str:
    parts = urlsplit(url)
    return to if "://" in to else f"{parts.scheme}://{parts.netloc}{to if to.startswith('/') else '/' + to}"


@cache
def _pool() -> httpcore2.ConnectionPool:
    return httpcore2.ConnectionPool(max_connections=CONNECTIONS, keepalive_expiry=5)


def list_objects(url: str) -> InputSource:
    """List what lies below s3://BUCKET/PREFIX, by name; raises CannotRun."""
    store, prefix = _store(url), urlsplit(url).path.lstrip("/")
    try:
        found = sorted(
            (meta["path"], meta["size"]) for page in store.list(prefix or None, chunk_size=1000) for meta in page
        )
    except Exception as error:  # obstore's errors share no base but Exception
        raise CannotRun(f"{url} can not be listed: {_error_text(error)}") from error
    bucket = f"s3://{urlsplit(url).netloc}/"
    found = [(name, size) for name, size in found if not name.endswith("/") and not is_junk_file(name)]

    def items() -> Iterator[Item]:
        for line, (name, size) in enumerate(found, 1):
            if size > MAX_BYTES:
                yield invalid_item(line, name, too_large_error(name, size))
            else:
                yield Item(line, bucket + name, size, partial(_read_object, bucket + name))

    return InputSource(items, len(found), is_remote=True)


def _read_object(url: str) -> bytes:
    try:
        return bytes(_store(url).get(urlsplit(url).path.lstrip("/")).bytes())
    except CannotRun as error:
        raise BadItem(UNREADABLE, str(error)) from error
    except Exception as error:
        raise BadItem(UNREADABLE, f"{url} can not be read: {_error_text(error)}") from error


def _store(url: str) -> Any:
    return _bucket(urlsplit(url).netloc)


@cache
def _bucket(name: str) -> Any:
    """Open a bucket, with the credentials and the endpoint that the environment names as AWS's own tools do."""
    if importlib.util.find_spec("obstore") is None:
        raise CannotRun(OBSTORE_MISSING)
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return importlib.import_module("obstore.store").S3Store(name, client_options={"allow_http": plain})
    except Exception as error:
        raise CannotRun(f"s3://{name} can not be opened: {_error_text(error)}") from error


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Read what is far before it is asked for, several at a time, in order."""
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="far") as pool:
        ahead: deque[tuple[Item, Future[bytes]]] = deque()
        try:
            for item in items:
                ahead.append((item, pool.submit(item.read)))
                if len(ahead) >= READ_AHEAD_ITEMS:
                    yield _read(*ahead.popleft())
            while ahead:
                yield _read(*ahead.popleft())
        finally:
            for _, reading in ahead:
                reading.cancel()


def _read(item: Item, reading: Future[bytes]) -> Item:
    try:
        data = reading.result()
    except BadItem as error:
        return invalid_item(item.line, item.name, error, item.id)._replace(size=item.size)  # chunks are cut as before
    read: Callable[[], bytes] = lambda: data  # noqa: E731
    return item._replace(read=read)
