"""P10 for files and bulk jobs: foreign ids are answered exactly as unknown ones."""

import re

import pytest

from tests.integration.bulk.conftest import BulkStack
from tests.support import bulks
from tests.support.api_keys import callers
from tests.support.bulks import line


async def test_files_and_batches_are_visible_to_their_tenant_only(plant: BulkStack) -> None:
    mine, other, admin = callers(plant.server, plant.gateway, "mine", "other", "admin")
    url = f"http://127.0.0.1:{plant.gateway.port}"
    key = mine.headers["authorization"].removeprefix("Bearer ")
    with bulks.client(url, key, max_retries=0) as ai:
        done = await plant.run_all(bulks.start_batch(ai, [line("a"), "broken"]), ai)
        foreign = [f"/v1/files/{file}" for file in (done.input_file_id, done.output_file_id, done.error_file_id)]
        foreign += [f"{path}/content" for path in foreign] + [f"/v1/batches/{done.id}"]
        for caller in (other, admin):
            for path in foreign:
                unknown = re.sub(r"[0-9a-f]{16}(?=/|$)", "0" * 16, path)
                theirs, nobodys = caller.get(path), caller.get(unknown)
                assert (theirs.status_code, nobodys.status_code) == (404, 404)
                told = [re.sub(r"(file-|batch_)\w+", "", one.text) for one in (theirs, nobodys)]
                assert told[0] == told[1]
            assert caller.delete(foreign[0]).status_code == 404
            assert caller.post(f"/v1/batches/{done.id}/cancel").status_code == 404
            for body in ({"input_file_id": done.input_file_id}, {"retry_of": done.id}):
                assert caller.post("/v1/batches", json=body).status_code == 404
            for listed in ("/v1/files", "/v1/batches"):
                assert caller.get(listed).json() == {
                    "object": "list",
                    "data": [],
                    "first_id": None,
                    "last_id": None,
                    "has_more": False,
                }
        assert [file.id for file in ai.files.list()] != []


async def test_requests_without_a_key_are_refused(plant: BulkStack) -> None:
    callers(plant.server, plant.gateway, "mine")
    for method, path in (("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/batches"), ("POST", "/v1/batches")):
        answer = plant.gateway.http.request(method, path)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/x/y/z", "/v1/batches/x/y"])
async def test_every_error_below_the_prefix_has_openais_form(plant: BulkStack, path: str) -> None:
    answer = plant.gateway.http.put(path)
    assert answer.status_code in {404, 405}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
