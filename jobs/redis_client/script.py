"""Builds the source of a Lua script from its file and the functions of the shared files that it uses."""

import re
from hashlib import sha1
from pathlib import Path
from typing import Final

_LUA: Final = Path(__file__).parents[1] / "lua"
# Scripts that finish or move accepted jobs also run when Redis is out of memory; only submit is refused.
REFUSED_WHEN_FULL: Final = {"job/submit"}
# A function at the top level of a file: one line, or up to the line `end`.
_FUNCTION: Final = re.compile(r"^local function (\w+)(?:.*\bend$|[\s\S]*?^end$)\n?", re.MULTILINE)
_WORD: Final = re.compile(r"\w+")
_COMMENT: Final = re.compile(r"--.*")


class Script:
    """A Lua script, called by its SHA-1. Its line `-- with …` names the shared files to prepend."""

    def __init__(self, name: str) -> None:
        flags = "" if name in REFUSED_WHEN_FULL else " flags=allow-oom"
        body = (_LUA / f"{name}.lua").read_text()
        (includes,) = re.findall(r"^-- with (.+)$", body, re.MULTILINE) or [""]
        shared = [
            (_LUA / "shared" / f"{part}.lua").read_text() for part in ("common", *filter(None, includes.split(", ")))
        ]
        self.source = f"#!lua{flags}\n" + _drop_unused_functions("\n".join([*shared, body]))
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def _drop_unused_functions(source: str) -> str:
    """Leave out the functions that nothing calls: each call of a script creates all of its functions."""
    words = {found[1]: set(_WORD.findall(_COMMENT.sub("", found[0]))) for found in _FUNCTION.finditer(source)}
    unread = set(_WORD.findall(_COMMENT.sub("", _FUNCTION.sub("", source)))) & words.keys()
    used: set[str] = set()
    while unread:
        name = unread.pop()
        used.add(name)
        unread |= (words[name] & words.keys()) - used
    return _FUNCTION.sub(lambda found: found[0] if found[1] in used else "", source)
