"""Base64 is accepted in every form that encoders write, and refused where it is ambiguous."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.base64_reader import read_base64, read_base64_or_url
from jobs.contract.errors import Refused


def forms(data: bytes) -> dict[str, str]:
    plain, safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    return {
        "plain": plain,
        "with a final newline": plain + "\n",
        "with line breaks, as MIME has them": base64.encodebytes(data).decode(),
        "with Windows' line breaks": base64.encodebytes(data).decode().replace("\n", "\r\n"),
        "URL-safe": safe,
        "without padding": plain.rstrip("="),
        "URL-safe without padding": safe.rstrip("="),
        "indented": "  " + plain + "\t",
    }


@given(st.binary(max_size=200))
def test_every_form_gives_the_same_bytes(data: bytes) -> None:
    for what, text in forms(data).items():
        assert read_base64(text, "it") == data, what
        for url in (f"data:image/png;base64,{text}", f"DATA:;BASE64,{text}"):
            assert read_base64_or_url(url, "it") == data, what
    escaped = base64.b64encode(data).decode().replace("+", "%2B").replace("=", "%3D")
    assert read_base64_or_url(f"data:image/png;base64,{escaped}", "it") == data


@pytest.mark.parametrize(
    "text", ["A", "AAAAA", "AA=A", "AAAA=", "AAAA====", "=", "A===", "AA==AA==", "####", "é", "a.b"]
)
def test_invalid_base64_is_refused(text: str) -> None:
    for one in (text, text + "\n"):
        with pytest.raises(Refused, match="it is not base64") as refused:
            read_base64(one, "it")
        assert refused.value.code == "malformed_request"
