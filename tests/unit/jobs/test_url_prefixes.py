"""A URL matches a prefix exactly when its server would say so, in any spelling."""

import pytest
from pydantic import ValidationError

from jobs.bulk.settings import BulkSettings
from jobs.bulk.url_prefixes import UrlPrefixes, normalize_url

PREFIXES = UrlPrefixes(["http://cdn.example:8080/public/", "https://cdn.example/cats", "https://whole.example"])

INSIDE = {
    "http://cdn.example:8080/public/a.png": "http://cdn.example:8080/public/a.png",
    "HTTP://CDN.Example:8080/public/a.png": "http://cdn.example:8080/public/a.png",
    "http://cdn.example:8080/public/./b/../a.png?v=1": "http://cdn.example:8080/public/a.png?v=1",
    "http://cdn.example:8080/other/../public/a.png": "http://cdn.example:8080/public/a.png",
    "http://cdn.example:8080/%70ublic/%61.png": "http://cdn.example:8080/public/a.png",
    "http://cdn.example:8080/public/a%2fb%20c.png": "http://cdn.example:8080/public/a%2Fb%20c.png",
    "http://cdn.example:8080/public/100%25.png": "http://cdn.example:8080/public/100%25.png",
    "http://cdn.example:8080/public/..a/...png": "http://cdn.example:8080/public/..a/...png",
    "https://cdn.example/cats": "https://cdn.example/cats",
    "https://cdn.example:443/cats/1.png": "https://cdn.example/cats/1.png",
    "https://cdn.example./cats?x=../y": "https://cdn.example/cats?x=../y",
    "https://whole.example": "https://whole.example/",
    "https://whole.example/any/thing": "https://whole.example/any/thing",
}
OUTSIDE = [
    "http://cdn.example:8080/secret.png",
    "http://cdn.example:8080/public/../secret.png",
    "http://cdn.example:8080/public/%2e%2e/secret.png",
    "http://cdn.example:8080/public/.%2E/secret.png",
    "http://cdn.example:8080/public/a/../../secret.png",
    "http://cdn.example:8080/public/%252e%252e/secret.png",
    "http://cdn.example:8080/public/..%2fsecret.png",
    "http://cdn.example:8080/public/%2e%2e%2fsecret.png",
    "http://cdn.example:8080/public/..%5csecret.png",
    "http://cdn.example:8080/public/..;/secret.png",
    "http://cdn.example:8080/public/x%2f..%2f..%2fsecret.png",
    "http://cdn.example:8080/public\\..\\secret.png",
    "http://cdn.example:8080/public/%25252525252e%25252525252e/secret.png",
    "http://cdn.example:8080/public",  # the prefix is a folder
    "http://cdn.example:8080/PUBLIC/a.png",
    "http://cdn.example:8080/public%2fa.png",
    "http://cdn.example:8080/public/%zz.png",
    "http://cdn.example/public/a.png",
    "https://cdn.example:8080/public/a.png",
    "https://cdn.example/cats-2/1.png",
    "https://cdn.example/cats2",
    "https://cdn.example/cats%2F1.png",
    "https://cdn.example:444/cats/1.png",
    "https://cdn.example@evil.example/cats/1.png",
    "https://cdn.example:443@evil.example/cats/1.png",
    "https://evil.example/https://cdn.example/cats/1.png",
    "https://cdn.example.evil.example/cats/1.png",
    "https://whole.example.evil.example/",
    "https://whole.examples/",
    "https://cdn.example/cats/1.png#/../..",
    "https://cdn.example/cats/ 1.png",
    "https://cdn.example/cats/\n1.png",
    "https:/cdn.example/cats/1.png",
    "//cdn.example/cats/1.png",
    "ftp://cdn.example/cats/1.png",
    "https://cdn.example:99999/cats/1.png",
    "https://[::1/cats",
    "cats/1.png",
    "",
]


@pytest.mark.parametrize("url", INSIDE)
def test_a_url_below_a_prefix_is_fetched_in_its_normal_form(url: str) -> None:
    assert PREFIXES.find(url) == INSIDE[url]


@pytest.mark.parametrize("url", OUTSIDE)
def test_a_url_outside_the_prefixes_is_refused(url: str) -> None:
    """`..` and `%2e%2e` used to escape the prefix."""
    assert PREFIXES.find(url) is None


def test_normalising_twice_changes_nothing() -> None:
    for url in INSIDE.values():
        assert str(normalize_url(url)) == url
    assert str(normalize_url("http://[2001:DB8::1]:80")) == "http://[2001:db8::1]/"


@pytest.mark.parametrize("wrong", ["cdn.example/cats", "ftp://x/", "https://u:p@x/", "https://x/a?b", "https://", "/x"])
def test_a_prefix_that_is_no_url_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(ValidationError):
        BulkSettings(bulk_image_url_prefixes=f"https://good.example/, {wrong}")


def test_without_prefixes_nothing_is_fetched() -> None:
    assert UrlPrefixes(BulkSettings().url_prefixes()).find("https://cdn.example/") is None
