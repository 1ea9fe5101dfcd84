"""`jitney models list|load|unload|share|promote|rollback|follow`: parses the options and calls a gateway."""

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from cli.models.admin.client import GatewayCallError, build_parser, call_gateway, format_versions, print_error


class AdminVerb(NamedTuple):
    """A verb: its description, and its arguments with their options of `add_argument`.

    All verbs but `list` change a model: they POST the arguments after the model to `/v1/models/MODEL/VERB`.
    """

    description: str
    arguments: dict[str, dict[str, Any]]


def _optional(text: str) -> dict[str, Any]:
    return {"nargs": "?", "help": text}


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
        {"model": {}, "version": _optional("default: the version with the jobs, or all unloaded ones")},
    ),
    "unload": AdminVerb(
        "Unload a version once its queues are empty; accepted jobs are still run",
        {"model": {}, "version": _optional("default: the whole model, which then accepts no jobs")},
    ),
    "share": AdminVerb(
        "Send a percentage of the jobs to a version, as canary",
        {"model": {}, "version": {}, "percent": {"type": int, "help": "0 to 100"}},
    ),
    "promote": AdminVerb(
        "Send all jobs to a version; the previous one stays loaded for a rollback",
        {"model": {}, "version": _optional("default: the canary")},
    ),
    "rollback": AdminVerb("End the canary or, without one, return to the previous version", {"model": {}}),
    "follow": AdminVerb(
        "Serve what the folder selects: its highest version, or the one that model.toml pins", {"model": {}}
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run the verb in argv[0] and return its exit code."""
    name, verb = argv[0], _VERBS[argv[0]]
    parser = build_parser(name, verb.description)
    for argument, options in verb.arguments.items():
        parser.add_argument(argument, **options)
    args = parser.parse_args(argv[1:])
    path = f"/v1/models/{quote(args.model, safe='')}" if args.model else "/v1/models"
    body = {
        field: value for field in verb.arguments if field != "model" and (value := vars(args).get(field)) is not None
    }
    try:
        response = call_gateway(args.url, path) if name == "list" else call_gateway(args.url, f"{path}/{name}", body)
    except GatewayCallError as error:
        return print_error(error)
    as_json = name == "list" and args.json
    versions = response["models"] if path == "/v1/models" else response["versions"]
    print(json.dumps(response, indent=1) if as_json else format_versions(versions))
    return 0
