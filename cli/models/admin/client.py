"""What verbs that call a gateway share: their options, one request to `/v1/models`, and the table of versions."""

import argparse
import http.client
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 30.0
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78

ENVIRONMENT: Final = """environment:
  JITNEY_URL      URL of the gateway (http://127.0.0.1:8000)
  JITNEY_API_KEY  API key, if the gateway needs one; changes need a key with the role admin"""
DEFAULT_URL: Final = "http://127.0.0.1:8000"


class GatewayCallError(Exception):
    """The call failed; `code` is the exit code, the message is for the operator."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def build_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """Create the parser of a verb with the options that all verbs share."""
    parser = argparse.ArgumentParser(
        prog=f"jitney models {verb}",
        description=f"{description}.",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    url = os.environ.get("JITNEY_URL")
    parser.add_argument("--url", default=url, help=f"URL of the gateway ({url or DEFAULT_URL})")
    return parser


def call_gateway(url: str | None, path: str, body: Mapping[str, object] | None = None) -> Any:
    """GET a path, or POST a body, and return the JSON of the response. Raises GatewayCallError."""
    if not url:
        url = DEFAULT_URL
        print(f"jitney models: using the gateway at {url}; --url or JITNEY_URL sets another", file=sys.stderr)
    key = os.environ.get("JITNEY_API_KEY")
    connection_types = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in connection_types and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise GatewayCallError(f"{url} is not a gateway URL; an example is http://127.0.0.1:8000", EX_CONFIG)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    text = None if body is None else json.dumps(body)
    try:
        connection = connection_types[parts.scheme](str(parts.hostname), parts.port, timeout=TIMEOUT_S)
        connection.request("GET" if text is None else "POST", parts.path.rstrip("/") + path, text, headers)
        response = connection.getresponse()
        content = json.loads(response.read())
        connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise GatewayCallError(f"cannot reach the gateway at {url}: {error}", EX_UNAVAILABLE) from error
    if response.status >= 400:
        allowed = f" (allowed: {', '.join(content['allowed'])})" if content.get("allowed") else ""
        raise GatewayCallError(content.get("detail", content) + allowed, 1)
    return content


def print_error(error: GatewayCallError) -> int:
    """Print an error and return its exit code."""
    print(f"jitney models: {error}", file=sys.stderr)
    return error.code


def format_versions(versions: list[dict[str, Any]]) -> str:
    """Format versions as a table."""
    lines = [f"{'model':20}  {'version':>7}  {'status':9}  {'role':7}  {'share':>6}  {'workers':>7}  waiting"]
    for row in versions:
        waiting = sum((row.get("waiting") or {}).values())
        share = f"{row.get('share', 0):g} %"
        line = f"{row['name']:20}  {row['version'] or '':>7}  {row['status']:9}  {row.get('role') or '':7}  {share:>6}"
        lines.append(f"{line}  {row['workers']:>7}  {waiting}" + (f"  {row['reason']}" if row["reason"] else ""))
    return "\n".join(lines)
