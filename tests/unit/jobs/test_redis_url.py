"""Invalid Redis URLs are refused with the reason, and passwords are never shown."""

import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from background.settings import BackgroundSettings
from jobs.config.settings_base import format_validation_error
from jobs.redis_client.redis_url import RedisAddress, check_url, find_address, mask_password
from jobs.store.settings import StoreSettings

WRONG = {
    "http://host:6379/0": "begins with none of",
    "redis:/host": "begins with none of",
    "host:6379": "begins with none of",
    "redis+sentinel://host/0": "begins with none of",
    "redis://": "names no host",
    "redis:///0": "names no host",
    "redis://:s3cret@/0": "names no host",
    "redis://host:": "has no port",
    "redis://host:0/0": "has no port",
    "redis://host:65536/0": "has no port",
    "redis://host:abc/0": "has no port",
    "redis://:s3cret/x@host:6379/0": "has no port",  # a / in a password
    "redis://:s3cret#x@host:6379/0": "contains a #",
    "redis://[::1/0": "is not a URL",
    "redis://host/zero": "as its database",
    "redis://host/-1": "as its database",
    "redis://host/0/1": "as its database",
    "redis://host?db=zero": "has the option db",
    "redis://host/0?decode_responses=true": "has the option 'decode_responses'",
    "redis://host/0?socket_timeout=soon": "has the option socket_timeout",
    "redis://host/0?ssl_cert_reqs=none": "is for rediss:// alone",
    "rediss://host/0?ssl_cert_reqs=never": "has the option ssl_cert_reqs",
    "rediss://host/0?ssl_ca_certs=/no/such/file": "No such file",
    "rediss://host/0?ssl_certfile=/no/such/file": "No such file",
    "rediss://host/0?ssl_keyfile=/no/such/file": "without ssl_certfile",
    "rediss://host/0?ssl_ciphers=NONE": "cannot be used",
    "redis://:s3cret%@host/0": "contains a %",
    "redis://:s3cret%zz@host/0": "contains a %",
    "redis://:s3cret%ff@host/0": "is not UTF-8",
    "redis://host /0": "contains a blank",
    "redis://host/0\n": "contains a blank",
    "unix://": "names no socket",
    "unix:///": "names no socket",
    "unix://server.sock": "names no socket",
    "unix:///run/" + "x" * 120: "a path of more than 107 bytes",
    "unix:///run/s?db=x": "has the option db",
}
RIGHT = [
    "redis://localhost",
    "redis://127.0.0.1:6379/0",
    "redis://[::1]:6379/15",
    "redis://user:p%40ss%2Fw%25rd@host:6379/0",
    "redis://:p@ss@host/0",
    "redis://host?db=3&socket_keepalive=true&client_name=a",
    "rediss://host:6380/0?ssl_cert_reqs=none&ssl_check_hostname=false",
    "unix:///run/valkey.sock",
    "unix://user:secret@/run/valkey.sock?db=2",
]


@pytest.mark.parametrize(("url", "why"), WRONG.items())
def test_an_invalid_url_is_refused_in_one_line(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        check_url(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", [url for url in WRONG if "s3cret" in url])
def test_no_refusal_shows_a_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="JITNEY_REDIS_URL=") as caught:
        find_address({"JITNEY_REDIS_URL": url})
    assert "s3cret" not in "".join(traceback.format_exception_only(caught.value))
    monkeypatch.setenv("JITNEY_REDIS_URL", url)
    with pytest.raises(ValidationError) as refused:
        StoreSettings()
    assert "s3cret" not in format_validation_error(refused.value)


@pytest.mark.parametrize("url", RIGHT)
def test_urls_that_redis_py_accepts_are_accepted(url: str) -> None:
    assert check_url(url) == url


def test_a_url_is_shown_without_its_password() -> None:
    assert mask_password("redis://host/0") == "redis://host/0"
    assert mask_password("redis://user:s3cret@host/0") == "redis://user:***@host/0"
    assert mask_password("redis://:s3@cret@host/0") == "redis://:***@host/0"
    assert mask_password("redis://s3cret@host/0") == "redis://:***@host/0"
    assert mask_password("redis://:s3cret") == "redis://:***"
    assert mask_password("rediss://host/0?password=s3cret&ssl_password=s3cret&db=1") == (
        "rediss://host/0?password=***&ssl_password=***&db=1"
    )


def test_a_file_overrides_the_variable_and_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://first/0\n")
    address = find_address({"JITNEY_REDIS_URL": "redis://other/0", "JITNEY_REDIS_URL_FILE": str(file)})
    assert address == RedisAddress("", file)
    assert address.read() == "redis://first/0"
    file.write_text("redis://second/0")
    assert address.read() == "redis://second/0"


@pytest.mark.parametrize(
    ("text", "why"), [(None, "cannot be read: No such file"), ("", "begins with none"), ("x", "x")]
)
def test_a_file_without_a_url_is_refused_by_name(tmp_path: Path, text: str | None, why: str) -> None:
    file = tmp_path / "file"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValidationError) as caught:
        StoreSettings(redis_url_file=file)
    assert format_validation_error(caught.value).startswith("JITNEY_REDIS_URL_FILE: ")
    assert why in format_validation_error(caught.value)


def test_an_invalid_url_of_rqs_server_is_refused_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BackgroundSettings().rq_address() is None
    monkeypatch.setenv("JITNEY_RQ_REDIS_URL", "redis://:s3cret@host:abc/0")
    with pytest.raises(ValidationError) as caught:
        BackgroundSettings()
    assert format_validation_error(caught.value).startswith(
        "JITNEY_RQ_REDIS_URL=redis://:***@host:abc/0: it has no port"
    )
