"""Calls a gateway's HTTP API for verbs of an operator, who may be on another machine."""

import argparse
import http.client
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

TIMEOUT_S: Final = 30.0
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78
DEFAULT_URL: Final = "http://127.0.0.1:8000"


def describe_environment(needs_admin: str) -> str:
    """Return the epilog of a verb's help. `needs_admin`: what needs a key with the role admin."""
    return f"""environment:
  JITNEY_URL      URL of the gateway ({DEFAULT_URL})
  JITNEY_API_KEY  API key, if the gateway needs one; {needs_admin} a key with the role admin"""


class GatewayCallError(Exception):
    """The call failed; `code` is the exit code, the message is for the operator."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the gateway."""
    url = os.environ.get("JITNEY_URL")
    parser.add_argument("--url", default=url, help=f"URL of the gateway ({url or DEFAULT_URL})")


class GatewayClient:
    """A gateway at a URL. `program` names the verb in messages."""

    def __init__(self, program: str, url: str | None) -> None:
        """Choose the gateway; without a URL the default one, which is printed. Raises GatewayCallError."""
        if not url:
            url = DEFAULT_URL
            print(f"{program}: using the gateway at {url}; --url or JITNEY_URL sets another", file=sys.stderr)
        self._url, self._types = url, {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            self._parts = urlsplit(url)
            is_valid = self._parts.scheme in self._types and bool(self._parts.hostname) and self._parts.port != 0
        except ValueError:
            is_valid = False
        if not is_valid:
            raise GatewayCallError(f"{url} is not a gateway URL; an example is {DEFAULT_URL}", EX_CONFIG)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> Any:
        """Send a request and return the JSON of the response. Raises GatewayCallError. Fields of None are left out."""
        key = os.environ.get("JITNEY_API_KEY")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        fields = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        target = self._parts.path.rstrip("/") + path + (f"?{urlencode(fields)}" if fields else "")
        text = None if body is None else json.dumps({name: v for name, v in body.items() if v is not None})
        try:
            connection_type = self._types[self._parts.scheme]
            connection = connection_type(str(self._parts.hostname), self._parts.port, timeout=TIMEOUT_S)
            connection.request(method, target, text, headers)
            response = connection.getresponse()
            content = json.loads(response.read())
            connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise GatewayCallError(f"cannot reach the gateway at {self._url}: {error}", EX_UNAVAILABLE) from error
        if response.status >= 400:
            allowed = f" (allowed: {', '.join(content['allowed'])})" if content.get("allowed") else ""
            raise GatewayCallError(content.get("detail", str(content)) + allowed, 1)
        return content


def run_on_gateway(program: str, url: str | None, action: Callable[[GatewayClient], int]) -> int:
    """Run a verb on the gateway and return its exit code; errors are printed."""
    try:
        return action(GatewayClient(program, url))
    except GatewayCallError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.code


def segment(text: str) -> str:
    """Return a text as a segment of a path."""
    return quote(text, safe="")
