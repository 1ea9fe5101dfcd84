"""Speaks to a gateway's `/v1/models`: one call, and what it says as a line for people."""

import argparse
import http.client
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

TIMEOUT_S: Final = 30.0
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78

ENVIRONMENT: Final = """environment:
  JITNEY_URL      the gateway (http://127.0.0.1:8000)
  JITNEY_API_KEY  an API key, where it asks for one; changes need one with the role admin (JITNEY_KEY likewise)"""
DEFAULT_URL: Final = "http://127.0.0.1:8000"


class GatewayCallError(Exception):
    """The call came to nothing; `code` is the exit code, the message is for the operator."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def build_parser(verb: str, does: str) -> argparse.ArgumentParser:
    """Begin a verb's parser."""
    made = argparse.ArgumentParser(
        prog=f"jitney models {verb}",
        description=f"{does}.",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    url = os.environ.get("JITNEY_URL")
    made.add_argument("--url", default=url, help=f"where the gateway listens ({url or DEFAULT_URL})")
    return made


def call_gateway(url: str | None, path: str, body: Mapping[str, object] | None = None) -> Any:
    """GET, or POST a body; gives the answer's JSON. Raises Failed. `url`: None where nobody has named one."""
    if not url:
        url = DEFAULT_URL
        print(f"jitney models: the gateway is {url}: neither --url nor JITNEY_URL names another", file=sys.stderr)
    key = os.environ.get("JITNEY_API_KEY")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in kinds and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise GatewayCallError(f"{url} is no gateway's address; one looks like http://127.0.0.1:8000", EX_CONFIG)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    text = None if body is None else json.dumps(body)
    try:
        connection = kinds[parts.scheme](str(parts.hostname), parts.port, timeout=TIMEOUT_S)
        connection.request("GET" if text is None else "POST", parts.path.rstrip("/") + path, text, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise GatewayCallError(f"the gateway at {url} can not be reached: {error}", EX_UNAVAILABLE) from error
    if answer.status >= 400:
        allowed = said.get("allowed")
        raise GatewayCallError(said.get("detail", said) + (f" (allowed: {', '.join(allowed)})" if allowed else ""), 1)
    return said


def change_model(verb: str, given: argparse.Namespace, **fields: object) -> int:
    """Ask for a change of a model and say what follows from it; returns the exit code."""
    wanted = {name: value for name, value in fields.items() if value is not None}
    try:
        shown = call_gateway(given.url, f"/v1/models/{quote(given.model, safe='')}/{verb}", wanted)
    except GatewayCallError as error:
        return print_error(error)
    print(format_versions(shown["versions"]))
    return 0


def print_error(error: GatewayCallError) -> int:
    """Say what went wrong; returns the exit code."""
    print(f"jitney models: {error}", file=sys.stderr)
    return error.code


def format_versions(versions: list[dict[str, Any]]) -> str:
    """Lay versions out, a line each."""
    lines = [f"{'model':20}  {'version':>7}  {'status':9}  {'role':7}  {'share':>6}  {'workers':>7}  waiting"]
    for one in versions:
        waiting = sum((one.get("waiting") or {}).values())
        share = f"{one.get('share', 0):g} %"
        line = f"{one['name']:20}  {one['version'] or '':>7}  {one['status']:9}  {one.get('role') or '':7}  {share:>6}"
        lines.append(f"{line}  {one['workers']:>7}  {waiting}" + (f"  {one['reason']}" if one["reason"] else ""))
    return "\n".join(lines)
