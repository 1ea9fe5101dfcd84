"""OpenAI's unmodified client on a real service: every call for files and batches."""

import time
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types import Batch, FileObject

from tests.support import bulks
from tests.support.bulks import line
from tests.support.service import DIGITS, Service


@pytest.fixture
def ai(service: Service) -> Iterator[OpenAI]:
    with bulks.client(service.url) as client:
        yield client


def digits(count: int) -> list[str]:
    images = [path.read_bytes() for path in DIGITS]
    return [line(f"digit-{nth}", images[nth % len(images)], "digits") for nth in range(count)]


def test_a_batch_from_upload_to_download(ai: OpenAI) -> None:
    batch = bulks.start_batch(ai, digits(300), metadata={"night": "first"})
    assert batch.status in {"validating", "in_progress"}
    done = bulks.wait_for_end(ai, batch)
    assert (done.status, done.metadata, done.errors, done.error_file_id) == (
        "completed",
        {"night": "first"},
        None,
        None,
    )
    good, _ = bulks.check_batch(ai, done, [f"digit-{nth}" for nth in range(300)])
    labels = {one["custom_id"]: one["response"]["body"]["output"]["predictions"][0]["label"] for one in good}
    assert [labels[f"digit-{nth}"] for nth in range(len(DIGITS))] == [path.name[0] for path in DIGITS]
    assert {one["response"]["status_code"] for one in good} == {200}


def test_every_field_of_the_typed_objects_parses(ai: OpenAI) -> None:
    """The client does not validate by itself; its types do on request."""
    done = bulks.wait_for_end(ai, bulks.start_batch(ai, [*digits(3), "broken"]))
    raw = ai.batches.with_raw_response.retrieve(done.id).http_response.json()
    assert set(Batch.model_fields) <= set(raw)
    Batch.model_validate(raw, strict=True)
    moments = [raw[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
    assert moments == sorted(moments)
    assert abs(moments[0] - time.time()) < 60
    assert raw["expires_at"] - raw["created_at"] == 86_400
    for file_id in (done.input_file_id, done.output_file_id, done.error_file_id):
        raw = ai.files.with_raw_response.retrieve(str(file_id)).http_response.json()
        assert set(FileObject.model_fields) <= set(raw)
        FileObject.model_validate(raw, strict=True)
        assert raw["bytes"] == len(ai.files.content(str(file_id)).read())
    assert [ai.files.retrieve(str(done.output_file_id)).purpose, raw["purpose"]] == ["batch_output", "batch_output"]


def test_lists_are_paged_by_cursor(ai: OpenAI) -> None:
    made = [bulks.start_batch(ai, digits(1)) for _ in range(5)]
    pages = [one.id for one in ai.batches.list(limit=2)]  # the client asks for page after page
    assert pages[:5] == [batch.id for batch in reversed(made)]
    assert len(pages) == len(set(pages))
    listed = [file.id for file in ai.files.list(limit=2, purpose="batch")]
    assert listed[:5] == [batch.input_file_id for batch in reversed(made)]
    oldest = [file.id for file in ai.files.list(order="asc", purpose="batch")]
    assert oldest == list(reversed(listed))
    for batch in made:
        bulks.wait_for_end(ai, batch)


def test_files_are_deleted(ai: OpenAI) -> None:
    file = ai.files.create(file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    assert ai.files.content(file.id).read() == b"{}"
    assert ai.files.delete(file.id).deleted
    for call in (ai.files.retrieve, ai.files.content, ai.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(file.id)
        assert (caught.value.code, caught.value.param, caught.value.type) == ("file_not_found", "id", "not_found_error")


def test_a_batch_is_cancelled(ai: OpenAI) -> None:
    lines = digits(4000)
    batch = bulks.start_batch(ai, lines)
    assert ai.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    done = bulks.wait_for_end(ai, batch)
    assert (done.status, done.cancelled_at is not None) == ("cancelled", True)
    _, bad = bulks.check_batch(ai, done, [f"digit-{nth}" for nth in range(len(lines))])
    assert {one["error"]["code"] for one in bad} == {"batch_cancelled"}
    assert ai.batches.cancel(batch.id).status == "cancelled"  # said twice


def test_errors_come_as_the_client_knows_them(ai: OpenAI) -> None:
    """Also checks that the client does not retry in vain: it would at 409."""
    done = bulks.wait_for_end(ai, bulks.start_batch(ai, digits(1)))
    with pytest.raises(openai.ConflictError) as conflict:
        ai.batches.with_raw_response.cancel(done.id)
    assert (conflict.value.code, conflict.value.request.headers["x-stainless-retry-count"]) == (
        "batch_already_final",
        "0",
    )
    with pytest.raises(openai.NotFoundError, match="no file file-nothing"):
        bulks.create_batch(ai, "file-nothing")
    with pytest.raises(openai.UnprocessableEntityError, match="endpoint must be /v1/jobs or /v1/embeddings") as refused:
        bulks.create_batch(ai, done.input_file_id, endpoint="/v1/completions")
    assert refused.value.param == "endpoint"
    with pytest.raises(openai.UnprocessableEntityError, match="completion_window"):
        bulks.create_batch(ai, done.input_file_id, "25h")
    with pytest.raises(openai.UnprocessableEntityError, match="purpose must be batch"):
        ai.files.create(file=b"{}", purpose="vision")
    with pytest.raises(openai.UnprocessableEntityError, match="after must be"):
        ai.batches.list(after="batch_00")
    with pytest.raises(openai.NotFoundError, match="no batch"):
        ai.batches.retrieve("batch_of_mine")


def test_a_repeated_create_makes_one_batch(ai: OpenAI) -> None:
    """The client sends no idempotency key, but its retry count."""
    file = ai.files.create(file=("a", "\n".join(digits(2)).encode()), purpose="batch")

    def create(**headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return bulks.create_batch(ai, file.id, extra_headers=named).id

    first = create()
    assert create(x_stainless_retry_count="1") == first
    another = create()
    assert another != first
    keyed = create(idempotency_key="mine")
    assert keyed not in {first, another}
    assert create(idempotency_key="mine") == keyed
