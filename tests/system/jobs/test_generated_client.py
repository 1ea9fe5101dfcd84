"""A client that openapi-python-client makes from the document submits a job, waits, lists and cancels."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import models
from tests.support.documented import document
from tests.support.service import ROOT, Service

TOOLS = ROOT / ".venv" / "apart" / "bin"  # `make test` installs the generator there, because it does not go with ours
UNKNOWN_TO_IT = {"application/x-ndjson", "application/jsonl", "text/plain", "image/*", "audio/*"}
CALLER = """
import sys

from jitney_client import AuthenticatedClient
from jitney_client.api.jobs import cancel_job, list_jobs, read_job, submit_job
from jitney_client.models import Job, JobInput, JobList, JobRequest, Problem, State

X = {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}


def job(model, tensors=X):
    return JobRequest.from_dict({"model": model, "input": {"tensors": tensors}, "metadata": {"who": "me"}})


with AuthenticatedClient(base_url=sys.argv[1], token="none", httpx_args={"trust_env": False}) as client:
    submitted = submit_job.sync(client=client, body=job("double"))
    assert isinstance(submitted, Job), submitted
    assert submitted.metadata["who"] == "me"

    done = read_job.sync(submitted.id, client=client, wait=10)
    assert done.status is State.SUCCEEDED, done
    assert done.output["tensors"]["y"]["data"] == [2, 4, 6, 8]
    assert done.finished_at > done.created_at

    waited = submit_job.sync_detailed(client=client, body=job("double"), prefer="wait=10")
    assert (waited.status_code, waited.parsed.status) == (200, State.SUCCEEDED)

    listed = list_jobs.sync(client=client, limit=10)
    assert isinstance(listed, JobList), listed
    assert [each.id for each in listed.jobs] == [waited.parsed.id, submitted.id]

    queued = [submit_job.sync(client=client, body=job("slow")) for _ in range(20)][-1]
    assert cancel_job.sync(queued.id, client=client).status is State.CANCELED
    again = cancel_job.sync(queued.id, client=client)
    assert isinstance(again, Problem), again
    assert again.code.value == "job_already_final"

    refused = submit_job.sync_detailed(client=client, body=job("double", {}))
    assert (refused.status_code, refused.parsed.code.value) == (422, "invalid_input"), refused
    missing = read_job.sync("none", client=client)
    assert missing.code.value == "job_not_found"
print("all calls were answered as documented")
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with the package `jitney_client`, and what the generator printed."""
    if not (TOOLS / "openapi-python-client").exists():
        pytest.skip("no openapi-python-client: `make test` installs it")
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(document()))
    (folder / "config.json").write_text('{"post_hooks": []}')
    done = subprocess.run(
        [
            *(TOOLS / "openapi-python-client", "generate", "--path", "openapi.json", "--config", "config.json"),
            *("--meta", "none", "--output-path", "jitney_client"),
        ],
        cwd=folder,
        env={**os.environ, "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=True,
    )
    return folder, done.stdout + done.stderr


def test_the_generator_warns_only_of_media_types_that_it_does_not_know(generated: tuple[Path, str]) -> None:
    printed = generated[1]
    unknown = re.findall(r"Unsupported content[_ ]type (\S+?)\)?[,\s]", printed)
    assert set(unknown) <= UNKNOWN_TO_IT
    assert printed.count("WARNING") == len(unknown), printed
    assert "ERROR" not in printed


def test_the_client_submits_waits_lists_and_cancels(generated: tuple[Path, str], tmp_path: Path) -> None:
    models.doubling(tmp_path)
    models.slow(tmp_path)
    with Service(tmp_path) as service:
        done = subprocess.run(
            [TOOLS / "python", "-c", CALLER, service.url],
            env={**os.environ, "PYTHONPATH": str(generated[0])},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
