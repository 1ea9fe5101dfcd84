"""`jitney models list|load|unload|share|promote|rollback|follow`: parses the options and calls a gateway."""

import argparse
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from cli.gateway_client import GatewayClient, add_url, describe_environment, run_on_gateway, segment
from cli.output import print_json


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


def main(argv: Sequence[str]) -> int:
    """Run the verb in argv[0] and return its exit code."""
    name, verb = argv[0], _VERBS[argv[0]]
    parser = _build_parser(name, verb.description)
    for argument, options in verb.arguments.items():
        parser.add_argument(argument, **options)
    args = parser.parse_args(argv[1:])
    path = f"/v1/models/{segment(args.model)}" if args.model else "/v1/models"
    body = {
        field: value for field in verb.arguments if field != "model" and (value := vars(args).get(field)) is not None
    }

    def call(gateway: GatewayClient) -> int:
        response = gateway.call("GET", path) if name == "list" else gateway.call("POST", f"{path}/{name}", body)
        versions = response["models"] if path == "/v1/models" else response["versions"]
        if name == "list" and args.json:
            print_json(response)
        else:
            print(_format_versions(versions))
        return 0

    return run_on_gateway("jitney models", args.url, call)


def _build_parser(verb: str, description: str) -> argparse.ArgumentParser:
    """Create the parser of a verb with the options that all verbs share."""
    parser = argparse.ArgumentParser(
        prog=f"jitney models {verb}",
        description=f"{description}.",
        epilog=describe_environment("changes need"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_url(parser)
    return parser


def _format_versions(versions: list[dict[str, Any]]) -> str:
    """Format versions as a table."""
    lines = [f"{'model':20}  {'version':>7}  {'status':9}  {'role':7}  {'share':>6}  {'workers':>7}  waiting"]
    for row in versions:
        waiting = sum((row.get("waiting") or {}).values())
        share = f"{row.get('share', 0):g} %"
        line = f"{row['name']:20}  {row['version'] or '':>7}  {row['status']:9}  {row.get('role') or '':7}  {share:>6}"
        lines.append(f"{line}  {row['workers']:>7}  {waiting}" + (f"  {row['reason']}" if row["reason"] else ""))
    return "\n".join(lines)
