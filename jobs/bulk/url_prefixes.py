"""Matches URLs against allowed URL prefixes, after normalising both.

A prefix ends at a path segment: https://cdn.example/cats allows /cats and /cats/1.png, not /cats-2/1.png. An ambiguous
URL (a dot segment that is encoded twice, or beside an encoded slash) matches no prefix.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

PORTS: Final = {"http": 80, "https": 443}
MAX_DECODINGS: Final = 5
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
_SEPARATOR: Final = re.compile(r"[/\\]")


class NormalUrl(NamedTuple):
    """A normalised URL. `origin`: scheme, host, port; `path` begins with a slash."""

    origin: tuple[str, str, int]
    path: str
    query: str

    def __str__(self) -> str:
        scheme, host, port = self.origin
        shown = f"[{host}]" if ":" in host else host
        netloc = shown if port == PORTS[scheme] else f"{shown}:{port}"
        return f"{scheme}://{netloc}{self.path}{self.query}"


def normalize_url(url: str) -> NormalUrl:
    """Normalise an http or https URL (RFC 3986, 6.2.2). Raises ValueError for an invalid or ambiguous one."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _invalid_url("it contains a character that is not allowed in a URL")
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in PORTS or not host:
        raise _invalid_url("it is not an http or https URL with a host")
    if "@" in parts.netloc or "#" in url:
        raise _invalid_url("it has a user name, a password or a fragment")
    port = parts.port if parts.port is not None else PORTS[parts.scheme]
    path = _resolve_dot_segments(_ESCAPE.sub(_unescape, parts.path))
    _refuse_hidden_dots(path)
    return NormalUrl((parts.scheme, host, port), path, f"?{parts.query}" if parts.query else "")


class UrlPrefixes:
    """URL prefixes that the operator allows."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        """Normalise the prefixes. Raises ValueError for an invalid URL, or one with a query."""
        self._prefixes = [normalize_url(prefix) for prefix in prefixes]
        if any(prefix.query for prefix in self._prefixes):
            raise _invalid_url("it has a query, which is not allowed in a prefix")

    @property
    def texts(self) -> list[str]:
        return [str(prefix) for prefix in self._prefixes]

    def find(self, url: str) -> str | None:
        """Return the normalised URL if it matches a prefix, else None."""
        try:
            normalized = normalize_url(url)
        except ValueError:
            return None
        return str(normalized) if any(_is_below(normalized, prefix) for prefix in self._prefixes) else None


def _is_below(url: NormalUrl, prefix: NormalUrl) -> bool:
    if url.origin != prefix.origin:
        return False
    folder = prefix.path if prefix.path.endswith("/") else f"{prefix.path}/"
    return url.path == prefix.path or url.path.startswith(folder)


def _unescape(match: re.Match[str]) -> str:
    """Normalise an escape: decode it if it is not needed, else use capital digits."""
    if match[1] is None:
        raise _invalid_url("it has a percent sign without two digits")
    char = chr(int(match[1], 16))
    return char if _UNRESERVED.fullmatch(char) else match[0].upper()


def _resolve_dot_segments(path: str) -> str:
    """Resolve dot segments (RFC 3986, 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:] or [""]
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _refuse_hidden_dots(path: str) -> None:
    """Raise ValueError if a server that decodes again, or drops parameters (`..;x`), may see a dot segment."""
    for _ in range(MAX_DECODINGS):
        segments = {segment.partition(";")[0] for segment in _SEPARATOR.split(path)}
        if segments & {".", ".."}:
            raise _invalid_url("it hides a dot segment")
        decoded = unquote(path, "latin-1")
        if decoded == path:
            return
        path = decoded
    raise _invalid_url("it is percent-encoded too many times")


def _invalid_url(what: str) -> ValueError:
    return ValueError(f"invalid URL: {what}")
