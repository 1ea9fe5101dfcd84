"""The page docs/how-to/browsers.md: its commands as they stand. Its example is run in tests/system/page."""

import json
from pathlib import Path

from tests.support.how_to import Page, prepare_folder, run_shell
from tests.support.service import Service

PAGE = Page("browsers.md")


def test_a_token_is_made_and_reads_the_job(service: Service, tmp_path: Path) -> None:
    told = run_shell(PAGE.block("sh", "/token"), service.url, prepare_folder(tmp_path), {"KEY": ""})
    made, documented = json.loads(told), json.loads(PAGE.block("json", '"expires_at"'))
    assert made.keys() == documented.keys()
    assert made["urls"].keys() == documented["urls"].keys()
    job = service.http.get(made["urls"]["self"] + "&wait=30").json()
    assert job["output"]["predictions"][0]["label"] == "7"
    assert service.http.get(made["urls"]["output"]).json() == job["output"]
