"""`jitney models list|load|unload|share|promote|rollback|follow`: parses the options and calls a gateway."""

import argparse
import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

TIMEOUT_S: Final = 30.0
EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78

ENVIRONMENT: Final = """environment:
  JITNEY_URL      URL of the gateway (http://127.0.0.1:8000)
  JITNEY_API_KEY  API key, if the gateway needs one; changes need a key with the role admin"""
DEFAULT_URL: Final = "http://127.0.0.1:8000"


class AdminVerb(NamedTuple):
    """A verb: its description, and its arguments with their options of `add_argument`.

    All verbs but `list` change a model: they POST the arguments after the model to `/v1/models/MODEL/VERB`.
    """

    description: str
    arguments: dict[str, dict[str, Any]]


def _optional(text: str) -> dict[str, Any]:
    return {"nargs": "?", "help": text}


_NAME: Final = {"help": "the name of the model"}
_VERBS: Final = {
    "list": AdminVerb(
        "List versions with their status and share of the jobs",
        {
            "model": _optional("show only this model"),
            "--json": {"action": "store_true", "help": "print the JSON of /v1/models"},
        },
    ),
    "load": AdminVerb(
        "Load or reload a version; it receives jobs only if no other version does",
        {"model": _NAME, "version": _optional("default: the version with the jobs, or all unloaded ones")},
    ),
    "unload": AdminVerb(
        "Unload a version once its queues are empty; accepted jobs are still run",
        {"model": _NAME, "version": _optional("default: the whole model, which then accepts no jobs")},
    ),
    "share": AdminVerb(
        "Send a percentage of the jobs to a version, as canary",
        {
            "model": _NAME,
            "version": {"help": "the number of the version"},
            "percent": {"type": int, "help": "0 to 100"},
        },
    ),
    "promote": AdminVerb(
        "Send all jobs to a version; the previous one stays loaded for a rollback",
        {"model": _NAME, "version": _optional("default: the canary")},
    ),
    "rollback": AdminVerb("End the canary or, without one, return to the previous version", {"model": _NAME}),
    "follow": AdminVerb(
        "Serve what the folder selects: its highest version, or the one that model.toml pins", {"model": _NAME}
    ),
}


class GatewayCallError(Exception):
    """The call failed; `code` is the exit code, the message is for the operator."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str]) -> int:
    """Run the verb in argv[0] and return its exit code."""
    name, verb = argv[0], _VERBS[argv[0]]
    parser = _build_parser(name, verb.description)
    for argument, options in verb.arguments.items():
        parser.add_argument(argument, **options)
    args = parser.parse_args(argv[1:])
    path = f"/v1/models/{quote(args.model, safe='')}" if args.model else "/v1/models"
    body = {
        field: value for field in verb.arguments if field != "model" and (value := vars(args).get(field)) is not None
    }
    try:
        response = _call_gateway(args.url, path) if name == "list" else _call_gateway(args.url, f"{path}/{name}", body)
    except GatewayCallError as error:
        print(f"jitney models: {error}", file=sys.stderr)
        return error.code
    as_json = name == "list" and args.json
    versions = response["models"] if path == "/v1/models" else response["versions"]
    print(json.dumps(response, indent=1) if as_json else _format_versions(versions))
    return 0


def _build_parser(verb: str, description: str) -> argparse.ArgumentParser:
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


def _call_gateway(url: str | None, path: str, body: Mapping[str, object] | None = None) -> Any:
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


def _format_versions(versions: list[dict[str, Any]]) -> str:
    """Format versions as a table."""
    lines = [f"{'model':20}  {'version':>7}  {'status':9}  {'role':7}  {'share':>6}  {'workers':>7}  waiting"]
    for row in versions:
        waiting = sum((row.get("waiting") or {}).values())
        share = f"{row.get('share', 0):g} %"
        line = f"{row['name']:20}  {row['version'] or '':>7}  {row['status']:9}  {row.get('role') or '':7}  {share:>6}"
        lines.append(f"{line}  {row['workers']:>7}  {waiting}" + (f"  {row['reason']}" if row["reason"] else ""))
    return "\n".join(lines)
