"""docs/how-to/bulk-run.md: its examples are executed, and its tables agree with the code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.bulk import errors, options
from cli.bulk.inputs import sources, tables
from cli.bulk.results import rows
from tests.support.service import ROOT, Service

DOC = (ROOT / "docs" / "how-to" / "bulk-run.md").read_text()


def test_the_commands_give_the_shown_output(service: Service, tmp_path: Path) -> None:
    block, shown = re.findall(r"```sh\n(.+?)```\n```json\n(.+?)\n```", DOC, re.DOTALL)[0]
    for name in ("samples", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert block.count(".venv/bin/jitney bulk run") == 4
    script = block.replace(".venv/bin/jitney", f"PYTHONPATH={ROOT} {sys.executable} -m cli.main")
    script = re.sub(r"-o (results|sevens)\.jsonl(?! --status)", rf"\g<0> --url {service.url}", script)
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["lines"] == 50
    assert (tmp_path / "local.csv").read_text().count("\n") == 51
    row, expected = (json.loads(text) for text in ((tmp_path / "sevens.jsonl").read_bytes().splitlines()[0], shown))
    for one in (row, expected):
        for prediction in one["output"]["predictions"]:
            prediction["probability"] = round(prediction["probability"], 3)
    assert row == expected


@pytest.mark.parametrize("code", [errors.UNREADABLE, errors.MALFORMED, errors.DUPLICATE, errors.TOO_LARGE])
def test_every_code_of_a_run_is_listed(code: str) -> None:
    assert f"| `{code}` |" in DOC


def test_every_option_and_kind_is_documented() -> None:
    (_, run) = options._parsers()
    given = {word for action in run._actions for word in action.option_strings if word.startswith("--")}
    assert [word for word in given - {"--help", "--output", "--quiet"} if word not in DOC] == []
    kinds = [*tables.INPUT_COLUMNS, *tables.ID_COLUMNS, *tables.SUFFIXES[2:], *rows.SUFFIXES[2:], *sources.ARCHIVES[:3]]
    assert [kind for kind in kinds if f"`{kind}`" not in DOC] == []
