"""Parses and runs the subcommands of a verb: their parser, filters as options, and pages of a list."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cli.arguments import int_between
from cli.gateway_client import GatewayClient, add_url, describe_environment, run_on_gateway

MAX_PAGE: Final = 100
Action = Callable[[GatewayClient, argparse.Namespace], int]
AddOptions = Callable[[argparse.ArgumentParser], None]


class Subcommand(NamedTuple):
    """A subcommand: what it does, its function, and what adds its arguments to a parser."""

    help: str
    action: Action
    add_options: AddOptions


def build_parser(
    verb: str, description: str, subcommands: Mapping[str, Subcommand], admin: str, *, more: str = ""
) -> "tuple[argparse.ArgumentParser, argparse._SubParsersAction[argparse.ArgumentParser]]":
    """Return the parser of a verb and its subparsers. `admin`: what of it needs a key with the role admin.

    `more`: a subcommand that the caller adds.
    """
    parser = argparse.ArgumentParser(f"jitney {verb}", description=description)
    names = "|".join([*subcommands, *([more] if more else [])])
    parsers = parser.add_subparsers(dest="what", required=True, metavar=names)
    for name, subcommand in subcommands.items():
        child = parsers.add_parser(
            name,
            help=subcommand.help,
            epilog=describe_environment(admin),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subcommand.add_options(child)
        add_url(child)
    return parser, parsers


def run_verb(verb: str, subcommands: Mapping[str, Subcommand], args: argparse.Namespace) -> int:
    """Run a subcommand on the gateway and return its exit code."""
    return run_on_gateway(f"jitney {verb}", args.url, lambda gateway: subcommands[args.what].action(gateway, args))


def add_limit(parser: argparse.ArgumentParser) -> None:
    text = "entries to print at most (20)"
    parser.add_argument("--limit", type=int_between(1, 1_000_000), default=20, metavar="N", help=text)


def add_time_span(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options of a span of time; `what` completes "only those …"."""
    parser.add_argument("--since", metavar="TIME", help=f"only those {what} at this time or later, in RFC 3339")
    parser.add_argument("--until", metavar="TIME", help=f"only those {what} before this time")


def pick(entry: Mapping[str, Any], *names: str) -> list[Any]:
    """Return some fields of an entry, for a row of a table."""
    return [entry[name] for name in names]


def read_pages(
    gateway: GatewayClient, path: str, query: Mapping[str, object], entries: str, limit: int
) -> Iterator[Any]:
    """Yield at most `limit` entries of a list, page by page. `entries`: name of the list in the answers."""
    cursor: object = None
    while limit > 0:
        page = gateway.call("GET", path, query={**query, "limit": min(limit, MAX_PAGE), "cursor": cursor})
        yield from page[entries]
        limit -= len(page[entries])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def repeat(call: Callable[[str | None], Any], counts: Sequence[str]) -> dict[str, int]:
    """Call again with `next_cursor` while an answer says `more`; return the sums of these fields of all answers."""
    totals, cursor = dict.fromkeys(counts, 0), None
    while True:
        answer = call(cursor)
        for name in counts:
            totals[name] += answer[name]
        cursor = answer["next_cursor"]
        if not answer["more"] or cursor is None or answer.get("stopped"):
            return totals
