"""The page docs/how-to/production-checklist.md: its commands, settings and links."""

import json
import re

from tests.support.api_keys import make_key
from tests.support.how_to import Page, run_shell
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

PAGE = Page("production-checklist.md")


def test_the_last_look() -> None:
    with Service() as service:
        make_key(f"unix://{service.folder}/data/server.sock", "ops")
        wait_until(lambda: service.http.get("/v1/jobs").status_code == 401, "keys are needed")
        ready, status = run_shell(
            PAGE.blocks("sh")[0].replace("readyz", "readyz -w '\\n'", 1), service.url, service.folder
        ).split("\n")[:2]
    answer = json.loads(ready)
    assert (answer["status"], answer["models"]) == ("ready", {"digits": "ready"})
    assert (answer["warnings"], answer["queue"]) == ([], {"safe": True, "warnings": []})
    assert status == "401"


def test_every_item_has_a_link() -> None:
    items = re.split(r"^- \[ \] ", PAGE.text, flags=re.MULTILINE)[1:]
    assert [item for item in items if "](" not in item.partition("\n## ")[0]] == []
    assert len(items) > 35


def test_every_setting_exists() -> None:
    settings = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert [name for name in re.findall(r"JITNEY_\w+", PAGE.text) if f"`{name}`" not in settings] == []
