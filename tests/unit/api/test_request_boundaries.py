"""The HTTP parser stops where a request ends, however its bytes are split on the way."""

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.asgi.request_boundaries import RequestSplitter

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = b"POST /%d HTTP/1.1\r\nContent-Length: 12\r\n\r\nab\r\n\r\n\n\r\n\r\nz"
CHUNKED = b"POST /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\n\r\n\r\n2;ext=1\r\n\r\n\r\n0\r\n\r\n"
TRAILERS = b"POST /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n"
EMPTY = b"POST /%d HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
LEADING = b"\r\n\r\nGET /%d HTTP/1.1\r\n\r\n"


class Parsed:
    """Feed the chunks to llhttp; return the requests that began and ended in each."""

    def __init__(self) -> None:
        self.framing, self.parser = RequestSplitter(), httptools.HttpRequestParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = self.ended = 0

    def on_message_begin(self) -> None:
        self.begun, self.headers = self.begun + 1, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.framing.expect_body(int(dict(self.headers).get(b"Content-Length", b"0")))

    def on_message_complete(self) -> None:
        self.ended += 1

    def feed(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            ended, begun = self.ended, self.begun
            end = self.framing.next_boundary(data, start)
            assert start < end <= len(data)
            self.parser.feed_data(data[start:end])
            assert self.ended - ended <= 1
            assert self.begun - ended <= 1, "a request began in the same piece in which the one before it ended"
            assert self.begun >= begun
            start = end


@settings(max_examples=300, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([GET, LENGTH, CHUNKED, TRAILERS, EMPTY, LEADING]), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 60), max_size=30),
)
def test_no_chunk_holds_the_end_of_one_request_and_the_start_of_the_next(kinds: list[bytes], cuts: list[int]) -> None:
    data = b"".join(kind % number for number, kind in enumerate(kinds))
    parsed = Parsed()
    for cut in cuts:
        parsed.feed(data[:cut])
        data = data[cut:]
    parsed.feed(data)
    assert parsed.begun == parsed.ended == len(kinds)


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\nHost: x\n\n", b"GET / HTTP/1.1\r\nHost: x\n\r\n"])
def test_a_line_without_a_carriage_return_does_not_end_the_headers(line: bytes) -> None:
    """The splits rely on this: llhttp accepts no other end of the headers."""
    with pytest.raises(httptools.HttpParserError):
        Parsed().parser.feed_data(line)
