"""`jitney models list [MODEL]`."""

import json
from collections.abc import Sequence
from urllib.parse import quote

from scripts.models.client import Failed, call, complain, parser, table


def main(argv: Sequence[str]) -> int:
    """List versions; returns the exit code."""
    arguments = parser("list", "List every version: how it stands, and its share of the jobs")
    arguments.add_argument("model", nargs="?", help="of this model alone")
    arguments.add_argument("--json", action="store_true", help="as /v1/models shows it")
    given = arguments.parse_args(argv)
    try:
        path = f"/v1/models/{quote(given.model, safe='')}" if given.model else "/v1/models"
        shown = call(given.url, path)
    except Failed as error:
        return complain(error)
    print(json.dumps(shown, indent=1) if given.json else table(shown.get("versions") or shown.get("models")))
    return 0
