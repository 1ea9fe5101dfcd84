"""Lines that refer to their image by an allowed URL or by a key in the operator's store."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bulk.conftest import BulkStack
from tests.support import bulks
from tests.support.bulks import line
from tests.support.gateways import PNG
from tests.support.receiver import Behaviour, ReceivedRequest, Receiver, Writer, answer, drip, reset


async def pictures(got: ReceivedRequest, writer: Writer) -> None:
    """Serve images, and the failures of real servers."""
    how: dict[str, Behaviour] = {
        "/cat.png": answer(200, body=PNG + b"cat"),
        "/moved.png": answer(302, {"location": "/cat.png"}),
        "/gone.png": answer(404, body=b"no"),
        "/huge.png": answer(200, body=PNG + bytes(50_000)),
        "/text.png": answer(200, body=b"<html>"),
        "/slow.png": drip,
        "/broken.png": reset,
    }
    await how[got.path.partition("?")[0]](got, writer)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with Receiver(pictures) as receiver:
        yield receiver


@pytest.fixture
def settings(server: Receiver, tmp_path: Path) -> Mapping[str, str]:
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "1.png").write_bytes(PNG + b"one")
    (tmp_path / "secret.png").write_bytes(PNG)
    return {
        "JITNEY_BULK_IMAGE_URL_PREFIXES": f"{server.url}, http://localhost:1/, http://127.0.0.1:9/cats",
        "JITNEY_BULK_IMAGE_STORE": str(tmp_path / "images"),
        "JITNEY_BULK_LINE_BYTES": "20000",
        "JITNEY_BULK_FETCH_S": "1.5",  # as long as a step's lease, and two fetches in a row: the step must renew it
        "JITNEY_BULK_FETCH_CONCURRENCY": "2",
    }


def naming(custom_id: str, **given: Any) -> str:
    return line(custom_id, input=given)


async def test_images_are_fetched_and_failures_stay_separate(plant: BulkStack, server: Receiver) -> None:
    url = server.url
    lines: dict[str, dict[str, Any]] = {
        "url": {"image_url": f"{url}/cat.png"},
        "key": {"image_key": "cats/1.png"},
        "bytes": {"image": base64.b64encode(PNG).decode()},
        "moved": {"image_url": f"{url}/moved.png"},
        "gone": {"image_url": f"{url}/gone.png"},
        "huge": {"image_url": f"{url}/huge.png"},
        "text": {"image_url": f"{url}/text.png"},
        "slow": {"image_url": f"{url}/slow.png"},
        "as slow": {"image_url": f"{url}/slow.png?2"},
        "slow too": {"image_url": f"{url}/slow.png?3"},
        "broken": {"image_url": f"{url}/broken.png"},
        "elsewhere": {"image_url": "http://127.0.0.1:9/dog.png"},
        "a longer name": {"image_url": f"{url}.example/cat.png"},
        "beside": {"image_url": "http://127.0.0.1:9/cats-2/1.png"},
        "dots": {"image_url": "http://127.0.0.1:9/cats/../dogs/1.png"},
        "encoded dots": {"image_url": "http://127.0.0.1:9/cats/%2e%2e/dogs/1.png"},
        "no server": {"image_url": "http://localhost:1/cat.png"},
        "no key": {"image_key": "cats/2.png"},
        "outside": {"image_key": "../secret.png"},
        "a folder": {"image_key": "cats"},
        "below a file": {"image_key": "cats/1.png/2"},
        "a long name": {"image_key": "x" * 300},
        "a long key": {"image_key": "x/" * 2000 + "x"},
        "number": {"image_key": 7},
        "both": {"image_key": "cats/1.png", "image_url": f"{url}/cat.png"},
    }
    batch = bulks.start_batch(plant.ai, [naming(name, **given) for name, given in lines.items()])
    claimed: list[Any] = []
    while len(claimed) < 3:
        claimed += await plant.worker.claim(32)
    assert sorted(job.input for job in claimed) == [PNG, PNG + b"cat", PNG + b"one"]
    await plant.worker.succeed(claimed)
    good, bad = bulks.check_batch(plant.ai, bulks.wait_for_end(plant.ai, batch), [*lines])
    assert {one["custom_id"] for one in good} == {"url", "key", "bytes"}
    codes = {one["custom_id"]: one["error"]["code"] for one in bad}
    others = {
        "huge": "body_too_large",
        "text": "unsupported_media_type",
        "number": "invalid_request",
        "both": "invalid_request",
    }
    assert codes == {name: others.get(name, "image_unavailable") for name in codes}
