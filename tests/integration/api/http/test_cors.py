"""Pages of other origins (CORS): preflights, headers of all kinds of responses, and what stays as it is without it."""

import re
from collections.abc import Iterator

import pytest

from api.asgi.cors import EXPOSED_HEADERS, read_origins
from api.openapi.operations import HEADERS, REQUEST_HEADERS
from tests.support.api_keys import callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.sockets import post, send_and_read

APP, LOCAL, EVIL = "https://app.example", "http://localhost:3000", "https://evil.example"
PATHS = (
    "/v1/jobs",
    "/v1/jobs/00" + "0" * 32,
    "/v1/events",
    "/v1/files",
    "/predict",
    "/healthz",
    "/metrics",
    "/v2/models/m/infer",
    "/no",
)
CORS = re.compile(rb"access-control-|vary:", re.IGNORECASE)


def asks(origin: str, method: str = "POST") -> dict[str, str]:
    """Return what a browser sends before a request of a page."""
    return {"origin": origin, "access-control-request-method": method, "access-control-request-headers": "prefer"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """A gateway with two origins, without keys."""
    server = Server()
    limits = {"JITNEY_TENANTS": '{"hasty": {"requests": 1}}', "JITNEY_TENANT_WINDOW_S": "600"}
    sizes = {"JITNEY_MAX_BODY_BYTES": "20000", "JITNEY_BODY_TIMEOUT_S": "0.5", "JITNEY_MAX_HEADER_BYTES": "2048"}
    with GatewayProcess(server, {"JITNEY_CORS_ORIGINS": f"{APP}, {LOCAL}", **limits, **sizes}) as process:
        yield process
    server.close()


@pytest.fixture(scope="module")
def closed() -> Iterator[GatewayProcess]:
    """The same with a key."""
    server = Server()
    with GatewayProcess(
        server, {"JITNEY_CORS_ORIGINS": APP, "JITNEY_TENANTS": '{"hasty": {"requests": 1}}'}
    ) as process:
        callers(server, process, "acme")
        yield process
    server.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_preflight_needs_no_key(closed: GatewayProcess, path: str) -> None:
    answer = closed.http.options(path, headers=asks(APP, "DELETE"))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["vary"] == "Origin"
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert int(answer.headers["access-control-max-age"]) > 0
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", *(name.lower() for name in REQUEST_HEADERS), "*"} <= set(allowed)
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", [EVIL, "null", "https://app.example.evil.example", f"{APP}:8443", APP.upper(), "*"])
def test_a_preflight_of_an_origin_that_is_not_listed_is_refused(closed: GatewayProcess, origin: str) -> None:
    answer = closed.http.options("/v1/jobs", headers=asks(origin))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "JITNEY_CORS_ORIGINS does not list the origin" in answer.json()["detail"]
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


def test_options_without_a_preflight_is_a_request_as_any(closed: GatewayProcess) -> None:
    assert closed.http.options("/v1/jobs", headers={"origin": APP}).status_code == 401
    assert closed.http.options("/v1/jobs").status_code == 401


async def test_a_page_may_read_answers_and_their_headers(gateway: GatewayProcess, anyio_backend: str) -> None:
    del anyio_backend
    worker = Worker(gateway.server)
    await worker.announce(gateway)
    page = {"origin": LOCAL, "sec-fetch-site": "cross-site"}
    answer = gateway.submit(PNG, origin=LOCAL, sec_fetch_site="cross-site", prefer="wait=0")
    exposed = {name.lower() for name in answer.headers["access-control-expose-headers"].split(", ")}
    assert answer.status_code == 202
    assert {"location", "retry-after", "preference-applied"} <= exposed & set(answer.headers)
    path = answer.headers["location"]
    for one in (path, "/v1/jobs", "/v1/models", "/openapi.json", "/", "/readyz"):  # hot, FastAPI's, pages
        answer = gateway.http.get(one, headers=page)
        assert answer.status_code == 200, one
        assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (LOCAL, "Origin"), one
    with gateway.http.stream("GET", f"{path}/events", headers=page) as events:
        assert events.headers["access-control-allow-origin"] == LOCAL
    assert gateway.http.delete(path, headers=page).status_code == 200
    for name in (EVIL, ""):  # another origin, and none: caches must tell them apart
        other = gateway.http.get("/healthz", headers={"origin": name} if name else {})
        assert (other.headers.get("access-control-allow-origin"), other.headers["vary"]) == (None, "Origin")
    await worker.connection.aclose()


def test_errors_have_the_headers_too(gateway: GatewayProcess, closed: GatewayProcess) -> None:
    origin = {"origin": APP}
    (hasty,) = callers(closed.server, closed, "hasty")
    for answer, status in (
        (closed.http.get("/v1/jobs", headers=origin), 401),
        (hasty.get("/v1/jobs", headers=origin), 429),
        (gateway.http.get("/nowhere", headers=origin), 404),
        (gateway.http.put("/v1/jobs", headers=origin), 405),
        (gateway.http.post("/v1/jobs", headers=origin, content=b"x" * 30_000), 413),
    ):
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)
    assert "retry-after" in answer.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post("/v1/jobs", f"Origin: {APP}", "Content-Length: 9", body=b"short"), 408),
        (post("/v1/jobs", f"Origin: {APP}", "Transfer-Encoding: gzip, chunked", body=b"x"), 400),
        (post("/v1/jobs", f"Origin: {APP}", f"X: {'y' * 4000}"), 431),
        (post("/v1/jobs", f"Origin: {APP}", "Transfer-Encoding: chunked", body=b"nonsense\r\n"), 400),
    ],
)
def test_errors_of_the_protocol_have_them_too(gateway: GatewayProcess, request_bytes: bytes, status: int) -> None:
    received = send_and_read(gateway.port, request_bytes)
    assert received.status == status
    assert f"access-control-allow-origin: {APP}\r\n".encode() in received.data
    assert send_and_read(gateway.port, b"nonsense\r\n\r\n").status == 400  # without a head


def test_an_open_gateway_refuses_pages_that_are_not_listed(gateway: GatewayProcess) -> None:
    for origin in (EVIL, "null"):
        answer = gateway.submit(PNG, origin=origin, sec_fetch_site="cross-site")
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "JITNEY_CORS_ORIGINS" in answer.json()["detail"]
    assert gateway.http.get("/v1/jobs", headers={"sec-fetch-site": "cross-site"}).status_code == 403  # an <img>
    rebound = {"origin": APP, "sec-fetch-site": "same-origin", "host": "app.example"}
    assert gateway.http.get("/v1/jobs", headers=rebound).status_code == 403  # the name now points to this machine


def test_any_origin_needs_a_key() -> None:
    """`*` opens a service with keys to all pages. It opens no service without keys."""
    queue = Server()
    with GatewayProcess(queue, {"JITNEY_CORS_ORIGINS": f"*,{APP}"}) as gateway:
        own = f"http://127.0.0.1:{gateway.port}"
        for headers, status in (
            ({"origin": EVIL, "sec-fetch-site": "cross-site"}, 403),
            ({"origin": EVIL}, 403),  # plain HTTP: browsers send no Sec-Fetch-Site
            ({"origin": "null"}, 403),
            ({"origin": own}, 200),
            ({"origin": own, "sec-fetch-site": "same-origin"}, 200),
            ({"origin": APP, "sec-fetch-site": "cross-site"}, 200),
            ({}, 200),
        ):
            answer = gateway.http.get("/v1/jobs", headers=headers)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "*"), headers
            assert "vary" not in answer.headers
        (caller,) = callers(queue, gateway, "acme")
        page = {"origin": EVIL, "sec-fetch-site": "cross-site"}
        assert gateway.http.options("/v1/jobs", headers=asks(EVIL)).headers["access-control-allow-origin"] == "*"
        assert caller.get("/v1/jobs", headers=page).headers["access-control-allow-origin"] == "*"
        assert gateway.http.get("/v1/jobs", headers=page).status_code == 401
    queue.close()


def test_without_the_setting_nothing_is_sent() -> None:
    queue = Server()
    with GatewayProcess(queue) as gateway:
        fields = "\r\n".join(f"{name}: {value}" for name, value in asks(APP).items())
        for head, status in (
            (f"OPTIONS /v1/jobs HTTP/1.1\r\nHost: x\r\n{fields}", 405),
            (f"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nOrigin: {APP}", 200),
            (f"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\nSec-Fetch-Site: cross-site", 403),
            (f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\nContent-Length: +1", 400),
        ):
            received = send_and_read(gateway.port, f"{head}\r\nConnection: close\r\n\r\n".encode())
            assert (received.status, CORS.search(received.data)) == (status, None), head
        callers(queue, gateway, "acme")
        refused = gateway.http.options("/v1/jobs", headers=asks(APP))
        assert refused.status_code == 401
        assert not {name for name in refused.headers if name.startswith("access-control")}
    queue.close()


def test_all_headers_of_answers_can_be_read() -> None:
    assert set(HEADERS) <= set(EXPOSED_HEADERS)


@pytest.mark.parametrize(
    "text",
    ["*", "https://a.example", "http://127.0.0.1:3000", "http://[::1]:80000", "capacitor://localhost", "http://x:443"],
)
def test_origins_as_browsers_write_them(text: str) -> None:
    assert read_origins(f" {text} ,https://b.example,") == [text, "https://b.example"]


@pytest.mark.parametrize(
    "text",
    [
        "a.example",
        "https://a.example/",
        "https://a.example/page",
        "https://a.example:443",
        "http://a.example:80",
        "https://A.example",
        "https://*.example",
        "https://ä.example",
        "https://user@a.example",
        "https://a.example:x",
        "https://a.example:",
        "https://a.example\nx: y",
        "null",
        "**",
        "https://",
    ],
)
def test_other_texts_are_no_origins(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin: write"):
        read_origins(f"https://b.example,{text}")
