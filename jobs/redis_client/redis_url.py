"""Reads a Redis URL from `JITNEY_REDIS_URL` or a file, validates it strictly, and masks its password for display.

redis-py accepts malformed URLs and connects elsewhere: a database that is not a number becomes database 0.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote_to_bytes, urlsplit

from jobs.config import environment

SCHEMES: Final = ("redis", "rediss", "unix")
EXAMPLE: Final = "redis://host:6379/0"
SOCKET_PATH_BYTES: Final = 107  # limit of the operating system
_NUMBER: Final = re.compile(r"\d{1,6}")


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _is_seconds(text: str) -> bool:
    return re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) is not None


def _is_boolean(text: str) -> bool:
    return text.lower() in {"true", "false", "yes", "no", "1", "0"}


def _is_not_empty(text: str) -> bool:
    return bool(text)


def _is_cert_requirement(text: str) -> bool:
    return text in {"none", "optional", "required"}


_Check = tuple[Callable[[str], bool], str]
_TEXT: Final[_Check] = (_is_not_empty, "a text")
_PLAIN_OPTIONS: Final[Mapping[str, _Check]] = {
    "db": (_is_number, "a number from 0"),
    "username": _TEXT,
    "password": _TEXT,
    "client_name": _TEXT,
    "socket_timeout": (_is_seconds, "seconds"),
    "socket_connect_timeout": (_is_seconds, "seconds"),
    "socket_keepalive": (_is_boolean, "true or false"),
    "health_check_interval": (_is_number, "seconds"),
}
_TLS_OPTIONS: Final[Mapping[str, _Check]] = {
    "ssl_cert_reqs": (_is_cert_requirement, "none, optional or required"),
    "ssl_check_hostname": (_is_boolean, "true or false"),
    "ssl_ca_certs": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_certfile": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_password": _TEXT,
    "ssl_ciphers": _TEXT,
}


def check_url(url: str) -> str:
    """Return the URL unchanged. Raises ValueError for an invalid one; the message never contains the password."""
    if url != url.strip() or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("contains a blank or a line break")
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"begins with none of redis://, rediss:// and unix://; one looks like {EXAMPLE}")
    _check_escapes(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # its message would contain the password
        raise ValueError(f"is not a URL; one looks like {EXAMPLE}") from None
    if parts.fragment or url.endswith("#"):
        raise ValueError("contains a #; in a password it is written %23")
    if scheme == "unix":
        _check_socket(parts)
    else:
        _check_address(parts)
    _check_options(parts)
    return url


def _check_escapes(url: str) -> None:
    if re.search(r"%(?![0-9A-Fa-f]{2})", url):
        raise ValueError("contains a % that no two hexadecimal digits follow; a % itself is written %25")
    try:
        unquote_to_bytes(url).decode()
    except UnicodeDecodeError:
        raise ValueError("contains %XX that is not UTF-8") from None


def _check_socket(parts: SplitResult) -> None:
    if parts.hostname or not parts.path.strip("/"):
        raise ValueError("names no socket; one looks like unix:///run/valkey.sock")
    if len(unquote_to_bytes(parts.path)) > SOCKET_PATH_BYTES:
        raise ValueError(f"names a socket by a path of more than {SOCKET_PATH_BYTES} bytes, the system's limit")


def _check_address(parts: SplitResult) -> None:
    advice = "; in a password / is written %2F, ? is %3F and # is %23"
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"has no port from 1 to 65535 behind its host{advice}")
    if not parts.hostname:
        raise ValueError(f"names no host; one looks like {EXAMPLE}{advice}")
    database = parts.path.removeprefix("/")
    if database and not _is_number(database):
        raise ValueError(f"has no number from 0 as its database behind the last /; one looks like {EXAMPLE}{advice}")


def _check_options(parts: SplitResult) -> None:
    allowed = {**_PLAIN_OPTIONS, **(_TLS_OPTIONS if parts.scheme == "rediss" else {})}
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name in _TLS_OPTIONS and name not in allowed:
            raise ValueError(f"has the option {name}, which is for rediss:// alone")
        if name not in allowed:
            raise ValueError(f"has the option {name[:40]!r}; allowed: {', '.join(allowed)}")
        is_valid, meaning = allowed[name]
        if not is_valid(value):
            raise ValueError(f"has the option {name}, which must be {meaning}")
    if parts.scheme == "rediss":
        _check_certificates(options)


def _check_certificates(options: Mapping[str, str]) -> None:
    """Load the TLS files now: otherwise a missing file would look like an unreachable server."""
    import ssl  # noqa: PLC0415 (slow to import, and only rediss:// needs it)

    context = ssl.create_default_context()
    try:
        if ca_file := options.get("ssl_ca_certs"):
            context.load_verify_locations(cafile=ca_file)
        if ca_path := options.get("ssl_ca_path"):
            context.load_verify_locations(capath=ca_path)
        if options.get("ssl_keyfile") and not options.get("ssl_certfile"):
            raise ValueError("has ssl_keyfile without ssl_certfile")
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password", ""))
        if ciphers := options.get("ssl_ciphers"):
            context.set_ciphers(ciphers)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        raise ValueError(f"names a certificate, key or cipher that cannot be used: {reason}") from error


def mask_password(url: str) -> str:
    """Return a URL, valid or not, without its password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    secret, at, address = rest.rpartition("@")
    if at:
        user, colon, _ = secret.partition(":")
        rest = f"{user if colon else ''}:***@{address}"
    elif rest.startswith(":"):  # no host: the rest is a password
        rest = ":***"
    return scheme + separator + re.sub(r"((?:ssl_)?password=)[^&]*", r"\1***", rest)


@dataclass(frozen=True)
class RedisAddress:
    """A URL, or a file that contains it. The file is read again for every connection."""

    url: str
    file: Path | None = None

    def read(self) -> str:
        """Return the current URL. Raises ValueError if the file is unreadable or holds no valid URL."""
        if self.file is None:
            return self.url
        try:
            text = self.file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ValueError(f"the file {self.file} cannot be read: {reason}") from error
        try:
            return check_url(text.strip())
        except ValueError as error:
            raise ValueError(f"the URL in {self.file} {error}") from error

    @property
    def shown(self) -> str:
        """The URL without its password, for logs."""
        if self.file is None:
            return mask_password(self.url)
        try:
            return f"{mask_password(self.read())} (from {self.file})"
        except ValueError:
            return f"the server that {self.file} names"


def find_address(env: Mapping[str, str], name: str = "JITNEY_REDIS_URL") -> RedisAddress | None:
    """Return the address of JITNEY_REDIS_URL_FILE, else of JITNEY_REDIS_URL or REDIS_URL; None if none is set.

    Raises ValueError, which names the variable and shows no password.
    """
    if file := env.get(f"{name}_FILE"):
        address = RedisAddress("", Path(file))
        try:
            address.read()
        except ValueError as error:
            raise ValueError(f"{name}_FILE: {error}") from error
        return address
    if url := environment.read(env, name.removeprefix(environment.PREFIX)):
        try:
            return RedisAddress(check_url(url))
        except ValueError as error:
            raise ValueError(f"{name}={mask_password(url)}: it {error}") from error
    return None
