"""A script has all functions that it uses, and no others."""

import re
from pathlib import Path

import pytest

from jobs.redis_client import script
from jobs.redis_client.script import Script

LUA = Path(script.__file__).parents[1] / "lua"
NAMES = sorted(str(path.relative_to(LUA).with_suffix("")) for path in LUA.rglob("*.lua") if "shared" not in path.parts)
DEFINED = re.compile(r"^local function (\w+)", re.MULTILINE)
SHARED = {name for path in (LUA / "shared").glob("*.lua") for name in DEFINED.findall(path.read_text())}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_the_functions_that_it_uses(name: str) -> None:
    source = Script(name).source
    code = re.sub(r"--.*", "", source)
    defined = set(DEFINED.findall(source))
    assert all(len(re.findall(rf"\b{used}\b", code)) > 1 for used in defined)
    assert not {word for word in re.findall(r"\b(\w+)\(", code) if word in SHARED} - defined


def test_functions_of_functions_stay() -> None:
    source = Script("job/finish").source
    assert "local function end_job(" in source
    assert "local function count_end(" in source  # end_job alone calls it
    assert "local function add_watcher(" not in source
    assert source.startswith("#!lua flags=allow-oom\n")
    assert source.rstrip().endswith("return results")
