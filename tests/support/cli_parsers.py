"""The commands of `jitney` as argparse knows them, and the sections of docs/reference/cli.md that describe them."""

import argparse
import importlib
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cli.main import VERBS

# Verbs whose module makes a parser for each verb of its own.
SEPARATE = {
    "models": ("list", "load", "unload", "share", "promote", "rollback", "follow", "doctor", "import", "optimize")
}


class _Captured(Exception):
    """Raised in place of parsing."""


def commands(patch: pytest.MonkeyPatch) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its words without `jitney`."""
    found: dict[str, argparse.ArgumentParser] = {}
    for verb in VERBS:
        for words in [[verb, sub] for sub in SEPARATE.get(verb, ())] or [[verb]]:
            parser = _capture(patch, words)
            subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
            if subparsers:
                helps = {choice.dest: choice.help for choice in subparsers[0]._choices_actions}
                for name, each in subparsers[0].choices.items():
                    each.description = each.description or helps[name]
                    found[f"{verb} {name}"] = each
            else:
                found[" ".join(words)] = parser
    return dict(sorted(found.items(), key=lambda item: [*VERBS].index(item[0].split()[0])))


def section(words: str, parser: argparse.ArgumentParser) -> str:
    """The section of the page about a command."""
    description = " ".join((parser.description or VERBS[words.split(maxsplit=1)[0]][1]).split())
    lines = [f"## `jitney {words}`", "", description[0].upper() + description[1:].rstrip(".") + "."]
    rows = [*_rows(parser)]
    if rows:
        lines += ["", "| argument | default | meaning |", "|---|---|---|", *rows]
    return "\n".join(lines)


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.dest == "help" or action.help == argparse.SUPPRESS:
            continue
        value = (
            ""
            if action.nargs == 0
            else formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        )
        if not action.option_strings:
            name = formatter._format_args(action, formatter._get_default_metavar_for_positional(action))
        else:
            name = ", ".join(action.option_strings) + (f" {value}" if value else "")
        default = action.default
        is_shown = action.option_strings and action.nargs != 0 and default not in (None, "", argparse.SUPPRESS, [], ())
        shown = f"`{' '.join(map(str, default)) if isinstance(default, list | tuple) else default}`" if is_shown else ""
        meaning = " ".join(formatter._expand_help(action).split()) if action.help else ""
        cells = [f"`{name}`", shown, meaning.replace("*", "\\*")]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _capture(patch: pytest.MonkeyPatch, words: list[str]) -> argparse.ArgumentParser:
    found: list[argparse.ArgumentParser] = []

    def parse_args(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        found.append(self)
        raise _Captured

    verb, *rest = words
    with patch.context() as context:
        for name in ("parse_args", "parse_known_args"):
            context.setattr(argparse.ArgumentParser, name, parse_args)
        with suppress(_Captured):
            importlib.import_module(VERBS[verb][0]).main([*rest, "--help"])
    return found[0]
