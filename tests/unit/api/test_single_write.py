"""Response headers are valid HTTP, and no value can inject a line break."""

import pytest

from api.asgi.single_write import encode_head


def test_a_response_head_is_lines_and_an_empty_line() -> None:
    fields = [(b"content-length", b"2"), (b"location", b"/v1/jobs/a")]
    assert encode_head(202, fields, closes=False) == (
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\nlocation: /v1/jobs/a\r\n\r\n"
    )


def test_a_closing_connection_is_announced() -> None:
    assert encode_head(400, [], closes=True) == b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "field", [(b"a", b"b\r\nc: d"), (b"a\n", b""), (b"a", b"\r"), (b"a", b"\n\n"), (b"a", b"b\r\n")]
)
def test_a_header_value_of_several_lines_is_not_written(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="contains a line break"):
        encode_head(200, [(b"content-length", b"0"), field], closes=False)
