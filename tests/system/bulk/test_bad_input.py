"""Invalid lines of a bulk job get a line number and a code, and do not stop the others."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.bulk.conftest import BulkStack
from tests.support import bulks
from tests.support.bulks import line
from tests.support.gateways import PNG
from tests.support.service import DIGITS, Service


def change(text: str, **fields: Any) -> str:
    """A line with changed fields; None removes one."""
    given = {**json.loads(text), **fields}
    return json.dumps({name: value for name, value in given.items() if value is not None})


BROKEN: dict[str, tuple[Any, str, bool]] = {  # what is wrong → the line, its code, whether its custom_id can be read
    "no JSON": ("{", "malformed_request", False),
    "no object": ("[1, 2]", "malformed_request", False),
    "no text": (b"\xff\xfe{}", "malformed_request", False),
    "no custom_id": (change(line("x"), custom_id=None), "invalid_request", False),
    "an empty custom_id": (change(line("x"), custom_id=""), "invalid_request", False),
    "a custom_id that is a number": (change(line("x"), custom_id=7), "invalid_request", False),
    "another method": (change(line("get"), method="GET"), "invalid_request", True),
    "another url": (change(line("url"), url="/v1/chat/completions"), "invalid_request", True),
    "another field": (change(line("more"), more=1), "invalid_request", True),
    "no body": (change(line("body"), body=None), "invalid_request", True),
    "an unknown model": (line("model", model="nope"), "model_not_found", True),
    "a model that is no name": (line("models", model=["m"]), "invalid_request", True),
    "no input": (change(line("input"), body={"model": "m"}), "invalid_request", True),
    "no base64": (change(line("b64"), body={"model": "m", "input": {"image": "?"}}), "malformed_request", True),
    "no image": (line("text", b"hello, world"), "unsupported_media_type", True),
    "a webhook of its own": (line("hook", webhook="http://example.com"), "invalid_request", True),
    "an image by URL": (
        change(line("u"), body={"model": "m", "input": {"image_url": "http://x/"}}),
        "image_unavailable",
        True,
    ),
    "an image by key": (change(line("k"), body={"model": "m", "input": {"image_key": "x"}}), "image_unavailable", True),
    "a line that is too long": (line("long", PNG + bytes(40_000)), "body_too_large", False),
}


@pytest.fixture
def settings() -> Mapping[str, str]:
    return {"JITNEY_BULK_LINE_BYTES": "20000", "JITNEY_BULK_FILE_BYTES": "2000000", "JITNEY_BULK_LINES": "2000"}


async def test_broken_lines_are_counted_and_the_rest_runs(plant: BulkStack) -> None:
    good = [line(f"good-{nth}") for nth in range(60)]
    lines = [one for pair in zip(good, (wrong for wrong, _, _ in BROKEN.values()), strict=False) for one in pair]
    lines += ["", "   ", *good[len(BROKEN) :], line("good-0")]
    done = await plant.run_all(bulks.start_batch(plant.ai, lines))
    ids = [f"good-{nth}" for nth in range(60)]
    named = [json.loads(wrong)["custom_id"] for wrong, _, has_id in BROKEN.values() if has_id]
    _, bad = bulks.check_batch(plant.ai, done, [*ids, *named], broken=len(BROKEN) - len(named) + 1)
    found = {one["error"]["line"]: one["error"]["code"] for one in bad}
    wanted = {2 * nth: code for nth, (_, code, _) in enumerate(BROKEN.values(), 1)}
    assert found == {**wanted, len(lines): "duplicate_custom_id"}
    assert all(one["error"]["message"] for one in bad)


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([], {"empty_file"}),
        (["", " "], {"empty_file"}),
        (["no", "json"], {"malformed_request"}),
        ([b"\x1f\x8b\x08\x00\x00binary" * 20], {"malformed_request"}),
        ([line("a", model="x"), line("b", model="y")], {"model_not_found"}),
        ([line(str(nth)) for nth in range(2100)], {"too_many_jobs"}),
    ],
)
async def test_an_invalid_file_is_refused_as_a_whole(
    plant: BulkStack, lines: list[str | bytes], codes: set[str]
) -> None:
    done = bulks.wait_for_end(plant.ai, bulks.start_batch(plant.ai, lines))
    assert (done.status, done.failed_at is not None, done.output_file_id, done.error_file_id) == (
        "failed",
        True,
        None,
        None,
    )
    assert done.errors is not None
    assert {reason.code for reason in done.errors.data or []} == codes


async def test_the_first_hundred_of_many_reasons_are_reported(plant: BulkStack) -> None:
    done = bulks.wait_for_end(plant.ai, bulks.start_batch(plant.ai, [f"broken {nth}" for nth in range(250)]))
    assert done.errors is not None
    reasons = done.errors.data or []
    assert [reason.line for reason in reasons] == list(range(1, 101))


async def test_a_file_that_is_too_large_is_refused(plant: BulkStack) -> None:
    """Nothing is stored where the size is declared; otherwise at most the allowed bytes."""
    with pytest.raises(openai.APIStatusError) as declared:
        plant.ai.files.create(file=("big", bytes(2_100_000)), purpose="batch")
    assert (declared.value.status_code, declared.value.code) == (413, "body_too_large")
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'
    chunks = iter([head, *[bytes(100_000)] * 30, b"\r\n--b--\r\n"])
    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = plant.gateway.http.post("/v1/files", content=chunks, headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert [path for path in plant.folder.rglob("*") if path.is_file()] == []


def form(file: bytes, purpose: str = "batch", expires: str = "3600") -> bytes:
    """A form as clients send it."""
    fields = {"purpose": purpose, "expires_after[anchor]": "created_at", "expires_after[seconds]": expires}
    parts = [f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{text}' for name, text in fields.items()]
    head = '--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'
    return "\r\n".join([*parts, head]).encode() + file + b"\r\n--b--\r\n"


FORMS = {
    "no form": (b"{}", "application/json", "unsupported_media_type"),
    "no boundary": (b"", "multipart/form-data", "unsupported_media_type"),
    "a long boundary": (b"--", f"multipart/form-data; boundary={'b' * 300}", "malformed_request"),
    "no file": (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
        "",
        "invalid_request",
    ),
    "another field": (b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n', "", "invalid_request"),
    "half a form": (b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nab', "", "malformed_request"),
    "no purpose": (b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nab\r\n--b--\r\n', "", "invalid_request"),
    "noise": (b"noise", "", "malformed_request"),
    "5,000 digits": (form(b"{}", expires="9" * 5000), "", "invalid_request"),
    "digits of no number": (form(b"{}", expires="\u00b2"), "", "invalid_request"),
    "another purpose": (form(b"{}", purpose="fine-tune"), "", "invalid_request"),
    "UTF-16": (form("{}\n".encode("utf-16")), "", "malformed_request"),
    "UTF-16 without a mark": (form("{}\n".encode("utf-16-le")), "", "malformed_request"),
    "a long header": (b"--b\r\nX: " + b"y" * 100_000 + b"\r\n" + form(b"{}")[5:], "", "malformed_request"),
    "many headers": (b"--b\r\n" + b"X: y\r\n" * 40_000 + form(b"{}")[5:], "", "malformed_request"),
    "much behind its end": (form(b"{}") + bytes(2_100_000), "", "body_too_large"),
}


async def test_an_invalid_upload_is_refused_and_leaves_nothing(plant: BulkStack) -> None:
    """`expires_after` of 5,000 digits was a 500, and the file was never removed."""
    for what, (body, kind, code) in FORMS.items():
        headers = {"content-type": kind or "multipart/form-data; boundary=b"}
        answer = plant.gateway.http.post("/v1/files", content=body, headers=headers)
        assert (answer.json()["error"]["code"], answer.headers["x-should-retry"]) == (code, "false"), what
        assert [path for path in plant.folder.rglob("*") if path.is_file()] == [], what
        if "16" in what:
            assert "UTF-16" in answer.json()["error"]["message"]
    with plant.server.client() as client:
        assert client.zcard("jitney:{s00}:expiring_files") == 0


async def test_a_file_may_begin_with_a_byte_order_mark(plant: BulkStack) -> None:
    lines = [line(str(nth)) + "\r" for nth in range(5)]
    done = await plant.run_all(bulks.start_batch(plant.ai, ["\ufeff" + lines[0], "\ufeff\r", *lines[1:]]))
    good, _ = bulks.check_batch(plant.ai, done, [str(nth) for nth in range(5)])
    assert len(good) == 5


async def test_a_custom_id_may_contain_unicode_line_separators(plant: BulkStack) -> None:
    """The docs' example cut its lines at U+2028, as `splitlines` of a text does."""
    ids = ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb"]
    done = await plant.run_all(bulks.start_batch(plant.ai, [line(one) for one in ids]))
    good, _ = bulks.check_batch(plant.ai, done, ids)
    assert {one["custom_id"] for one in good} == set(ids)


async def test_a_file_name_is_not_used_as_a_path(plant: BulkStack) -> None:
    file = plant.ai.files.create(file=("../../etc/pass\r\nwd", b"{}"), purpose="batch")
    assert "/" not in file.filename
    answer = plant.gateway.http.get(f"/v1/files/{file.id}/content")
    assert re.fullmatch(r'attachment; filename="[\w. -]+"', answer.headers["content-disposition"])
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_odd_images_among_digits(service: Service, shared_data: Path) -> None:
    """3 % of the images break decoders: each fails alone, with its own code."""
    odd = [path for path in sorted((shared_data / "odd").rglob("*")) if path.is_file()]
    images = {f"odd-{nth}": path.read_bytes() for nth, path in enumerate(odd)}
    count = len(odd) * 100 // 3
    images |= {f"digit-{nth}": DIGITS[nth % len(DIGITS)].read_bytes() for nth in range(count - len(odd))}
    with bulks.client(service.url) as ai:
        lines = [line(name, image, "digits") for name, image in images.items()]
        done = bulks.wait_for_end(ai, bulks.start_batch(ai, lines), 60)
        good, bad = bulks.check_batch(ai, done, [*images])
    assert {one["custom_id"] for one in good} >= {name for name in images if name.startswith("digit")}
    codes = Counter(one["error"]["code"] for one in bad)
    assert set(codes) <= {"invalid_image", "unsupported_media_type", "image_too_many_pixels"}
    assert bad
