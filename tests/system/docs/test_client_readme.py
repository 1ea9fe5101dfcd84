"""The examples of client/README.md, executed one after the other."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.how_to import prepare_folder, run_python
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

README = (ROOT / "client" / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.+?)^```", README, re.DOTALL | re.MULTILINE)
WEBHOOK = """
import datetime, standardwebhooks

def headers(secret):
    now = datetime.datetime.now(datetime.UTC)
    signature = standardwebhooks.Webhook(secret).sign("1", now, body)
    return {"webhook-id": "1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}

body, secret = '{"type": "job.succeeded", "data": {"id": "00"}}', jitney.webhook_secret()
print(receive(headers(secret), body.encode(), secret), receive(headers("whsec_" + "A" * 32), body, secret))
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Service]:
    models.doubling(tmp_path / "models")
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")
    with Service(tmp_path / "models") as service:
        wait_until(lambda: len(service.http.get("/v1/models").json()["models"]) == 2, "all models are served")
        yield service


def test_the_examples_work(served: Service, tmp_path: Path) -> None:
    code = "\n".join([*BLOCKS, WEBHOOK])
    printed = run_python(code, served.url, prepare_folder(tmp_path), {"PYTHONPATH": str(ROOT / "client")}).splitlines()
    labels = [path.name[0] for path in DIGITS]
    first, batch, rest = printed[:7], printed[7 + len(DIGITS) : 7 + 2 * len(DIGITS)], printed[7 + 2 * len(DIGITS) :]
    assert first == ["7", "invalid_image failed", "queued", "3 {'order': '17'} True", "queued", "running", "succeeded"]
    assert printed[7 : 7 + len(DIGITS)] == [f"{path.name} {path.name[0]}" for path in DIGITS]
    assert sorted(batch) == [f"{path.name} {path.name[0]}" for path in DIGITS]
    assert rest[:3] == ["[2.0, 4.0, 6.0, 8.0]", "[2. 4. 6. 8.]", "9"]
    assert rest[3:-2] == [f"{index} {label}" for index, label in enumerate(labels)]
    assert rest[-2:] == ["job.succeeded 00", "200 401"]
