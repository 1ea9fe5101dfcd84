"""Address policy of webhooks: protects the service's own network from URLs that callers choose.

A URL is checked at submit by its text, and at each attempt by the addresses that its host name resolves to then. This
module performs no network access.
"""

import ipaddress
import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from jobs.contract.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARS: Final = 2000
PORTS: Final = {"http": 80, "https": 443}
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Of IPv6 only global unicast is public, without 6to4, Teredo and its neighbours, and documentation. `is_global` of
# Python 3.11 accepts 6to4, NAT64 and IPv4's protocol block.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NON_PUBLIC_NETWORKS: Final = [
    ipaddress.ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "192.0.0.0/24")
]


class WebhookTarget(NamedTuple):
    """A webhook's target. `origin` (scheme, host, port): unit of health tracking and of fair sharing."""

    url: str
    origin: str
    host: str
    port: int


class AddressPolicy:
    """Rules for webhook targets. `allowed`: private networks that the operator permits, on any port."""

    def __init__(self, allowed: Sequence[Network], schemes: Collection[str], ports: Collection[int]) -> None:
        self._allowed, self._schemes, self._ports = allowed, schemes, ports

    def target(self, url: str) -> WebhookTarget:
        """Parse a URL and check its text. Raises Refused."""
        parts, port = self._split(url)
        host = (parts.hostname or "").lower()
        address = _parse_ip(host, bracketed="[" in parts.netloc)
        if address is not None:
            self.check(host, [address])
            self.check_port(port, [address])
        else:
            self._check_name(host)
            if not self._allowed:  # otherwise decided by the resolved address at connect time
                self.check_port(port, [])
        shown = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else host
        origin = f"{parts.scheme}://{shown}:{port}"
        rest = parts.path or "/"
        netloc = shown if port == PORTS[parts.scheme] else f"{shown}:{port}"
        query = f"?{parts.query}" if parts.query else ""
        return WebhookTarget(f"{parts.scheme}://{netloc}{rest}{query}", origin, host, port)

    def check(self, host: str, addresses: Sequence[Address]) -> None:
        """Raise Refused unless all addresses are permitted."""
        for address in addresses:
            if not self._is_open(address) and not is_public(address):
                message = f"{host[:100]} is {address}, which is not a public address"
                raise _invalid_webhook(message, "add private receivers to JITNEY_WEBHOOK_ALLOW_CIDRS")

    def check_port(self, port: int, addresses: Sequence[Address]) -> None:
        """Raise Refused if the port is not allowed, unless the operator permits all the addresses."""
        if port in self._ports or (addresses and all(self._is_open(address) for address in addresses)):
            return
        raise _invalid_webhook(f"port {port} is not allowed", "ports: " + ", ".join(map(str, sorted(self._ports))))

    def _is_open(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)

    def _split(self, url: str) -> tuple[SplitResult, int]:
        if not 0 < len(url) <= MAX_URL_CHARS:
            raise _invalid_webhook(f"it has {len(url)} characters", f"1 to {MAX_URL_CHARS}")
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            message = "it contains a character that is not allowed in a URL"
            raise _invalid_webhook(
                message, "printable ASCII; percent-encode other characters, use punycode in the host name"
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _invalid_webhook(f"it cannot be parsed: {error}", "https://host/path") from error
        if parts.scheme not in self._schemes:
            raise _invalid_webhook(
                f"scheme {parts.scheme[:20]!r} is not allowed", "schemes: " + ", ".join(self._schemes)
            )
        if "@" in parts.netloc or "#" in url:
            raise _invalid_webhook("it has a user name, a password or a fragment", "https://host/path?query")
        return parts, port if port is not None else PORTS[parts.scheme]

    def _check_name(self, host: str) -> None:
        labels = host.split(".")
        if (
            len(host) > 253
            or not all(_LABEL.fullmatch(label) for label in labels)
            or not all(map(_is_valid_punycode, labels))
        ):
            raise _invalid_webhook(
                f"{host[:100]!r} is not a host name", "letters, digits and hyphens, dots between, none at the end"
            )
        if _NUMERIC.fullmatch(labels[-1]):
            raise _invalid_webhook(
                f"{host[:100]!r} is an abbreviated IP address", "four decimal numbers with dots between"
            )
        if not self._allowed and (len(labels) == 1 or labels[-1] in {"localhost", "local", "internal"}):
            raise _invalid_webhook(f"{host[:100]!r} is a name of a private network", "a public host name")


def is_public(address: Address) -> bool:
    """Return True for a public internet address that does not embed another address."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _NON_PUBLIC_NETWORKS)
    )


def parse_networks(text: str) -> list[Network]:
    """Parse comma-separated CIDRs. Raises ValueError."""
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


def _parse_ip(host: str, *, bracketed: bool) -> Address | None:
    """Parse a host that is an IP address; None if it is a name. Raises Refused."""
    try:
        if bracketed and "%" in host:  # a zone id names an interface of this machine
            return ipaddress.IPv6Address("")
        return ipaddress.IPv6Address(host) if bracketed else ipaddress.IPv4Address(host)
    except ValueError as error:
        if bracketed:
            raise _invalid_webhook(f"{host[:100]!r} is not an IPv6 address", "https://[2001:4860::1]/path") from error
        return None


def _is_valid_punycode(label: str) -> bool:
    """Return True unless the label is malformed punycode."""
    if not label.startswith("xn--"):
        return True
    try:
        text = label.encode().decode("idna")
        return not text.isascii() and text.encode("idna").decode() == label
    except UnicodeError:
        return False


def _invalid_webhook(message: str, allowed: str) -> Refused:
    return Refused("invalid_webhook", f"the webhook URL is refused: {message}", allowed=[allowed])
