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
from cli.bulk.inputs.items import MAX_BYTES, Item, Source, bad, too_large
from cli.bulk.inputs.junk_files import is_litter

SCHEMES: Final = ("http://", "https://", "s3://")
TIMEOUT_S: Final = 30.0
REDIRECTS: Final = 3
CONNECTIONS: Final = 16
AHEAD: Final = 64
LIKELY_BYTES: Final = 128 << 10  # of what is behind a URL, until it is read
WANTED: Final = 'reading s3:// needs obstore: pip install -e ".[s3]" in the checkout'


def is_far(text: str) -> bool:
    """Whether it is read over a network."""
    return text.startswith(SCHEMES)


def of_url(line: int, url: str, item_id: str | None = None) -> Item:
    """Give a line whose bytes are behind a URL."""
    read = partial(_object, url) if url.startswith("s3://") else partial(fetch, url)
    return Item(line, url, LIKELY_BYTES, read, item_id)


def fetch(url: str) -> bytes:
    """GET a URL, with a few redirects; raises BadItem."""
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
    try:
        for _ in range(REDIRECTS + 1):
            with _pool().stream("GET", url, extensions={"timeout": timeouts}) as answer:
                if 300 <= answer.status < 400 and (to := {n.lower(): v for n, v in answer.headers}.get(b"location")):
                    url = _absolute(url, to.decode("latin-1"))
                    continue
                if answer.status != 200:
                    raise BadItem(UNREADABLE, f"{url} answers {answer.status}")
                return _body(url, answer)
    except (httpcore2.ProtocolError, httpcore2.NetworkError, httpcore2.TimeoutException, OSError, ValueError) as error:
        raise BadItem(UNREADABLE, f"{url} can not be read: {error or type(error).__name__}") from error
    except httpcore2.UnsupportedProtocol as error:
        raise BadItem(UNREADABLE, f"{url} is no http:// or https:// address") from error
    raise BadItem(UNREADABLE, f"{url} redirects more than {REDIRECTS} times")


def _body(url: str, answer: httpcore2.Response) -> bytes:
    parts, size = [], 0
    for part in answer.iter_stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise too_large(url, size)
    return b"".join(parts)


def _absolute(url: str, to: str) -> str:
    parts = urlsplit(url)
    return to if "://" in to else f"{parts.scheme}://{parts.netloc}{to if to.startswith('/') else '/' + to}"


@cache
def _pool() -> httpcore2.ConnectionPool:
    return httpcore2.ConnectionPool(max_connections=CONNECTIONS, keepalive_expiry=5)


def objects(url: str) -> Source:
    """List what lies below s3://BUCKET/PREFIX, by name; raises CannotRun."""
    store, prefix = _store(url), urlsplit(url).path.lstrip("/")
    try:
        found = sorted(
            (meta["path"], meta["size"]) for page in store.list(prefix or None, chunk_size=1000) for meta in page
        )
    except Exception as error:  # obstore's errors share no base but Exception
        raise CannotRun(f"{url} can not be listed: {_plain(error)}") from error
    bucket = f"s3://{urlsplit(url).netloc}/"
    found = [(name, size) for name, size in found if not name.endswith("/") and not is_litter(name)]

    def items() -> Iterator[Item]:
        for line, (name, size) in enumerate(found, 1):
            if size > MAX_BYTES:
                yield bad(line, name, too_large(name, size))
            else:
                yield Item(line, bucket + name, size, partial(_object, bucket + name))

    return Source(items, len(found), is_far=True)


def _object(url: str) -> bytes:
    try:
        return bytes(_store(url).get(urlsplit(url).path.lstrip("/")).bytes())
    except CannotRun as error:
        raise BadItem(UNREADABLE, str(error)) from error
    except Exception as error:
        raise BadItem(UNREADABLE, f"{url} can not be read: {_plain(error)}") from error


def _store(url: str) -> Any:
    return _bucket(urlsplit(url).netloc)


@cache
def _bucket(name: str) -> Any:
    """Open a bucket, with the credentials and the endpoint that the environment names as AWS's own tools do."""
    if importlib.util.find_spec("obstore") is None:
        raise CannotRun(WANTED)
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        return importlib.import_module("obstore.store").S3Store(name, client_options={"allow_http": plain})
    except Exception as error:
        raise CannotRun(f"s3://{name} can not be opened: {_plain(error)}") from error


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Read what is far before it is asked for, several at a time, in order."""
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="far") as pool:
        ahead: deque[tuple[Item, Future[bytes]]] = deque()
        try:
            for item in items:
                ahead.append((item, pool.submit(item.read)))
                if len(ahead) >= AHEAD:
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
        return bad(item.line, item.name, error, item.id)._replace(size=item.size)  # chunks are cut as before
    read: Callable[[], bytes] = lambda: data  # noqa: E731
    return item._replace(read=read)
