"""Builds the source of a Lua script from its file and the shared files that it names."""

import re
from hashlib import sha1
from pathlib import Path
from typing import Final

_LUA: Final = Path(__file__).parents[1] / "lua"
# Scripts that finish or move accepted jobs also run when Redis is out of memory; only submit is refused.
REFUSED_WHEN_FULL: Final = {"job/submit"}


class Script:
    """A Lua script, called by its SHA-1. Its line `-- with …` names the shared files to prepend."""

    def __init__(self, name: str) -> None:
        flags = "" if name in REFUSED_WHEN_FULL else " flags=allow-oom"
        body = (_LUA / f"{name}.lua").read_text()
        (includes,) = re.findall(r"^-- with (.+)$", body, re.MULTILINE) or [""]
        shared = [
            (_LUA / "shared" / f"{part}.lua").read_text() for part in ("common", *filter(None, includes.split(", ")))
        ]
        self.source = "\n".join([f"#!lua{flags}", *shared, body])
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()
