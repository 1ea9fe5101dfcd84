"""W3, W4: allowed addresses, checked by text at submit and by resolved address at each attempt."""

import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme

from background.settings import BackgroundSettings
from background.webhooks.sender import Sender
from jobs.contract import webhook_request
from jobs.contract.address_policy import AddressPolicy, is_public, parse_networks
from jobs.contract.errors import Refused
from jobs.contract.ids import new_job_id
from jobs.contract.job import Outcome, Submission
from jobs.contract.lifecycle import State
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.settings import AddressPolicySettings, StoreSettings
from jobs.webhooks import delivery_log, outbox
from tests.integration.webhooks.conftest import IMAGE, WebhookStack
from tests.support.background_process import BackgroundProcess
from tests.support.gateways import GatewayProcess
from tests.support.receiver import Receiver
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

PUBLIC = ["https://example.com", "https://EXAMPLE.com:8443/a?b=c", "http://8.8.8.8/", "https://[2606:4700::1111]/x"]
PUBLIC += ["https://xn--bcher-kva.example/", "https://a-b.c_d.example"]
LOOPBACK = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://[::1]/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://a.localhost",
]
PRIVATE = ["http://10.1.2.3/", "http://192.168.0.1/", "http://172.16.0.1/", "http://169.254.169.254/latest/meta-data"]
PRIVATE += ["http://100.64.0.1/", "http://192.0.0.8/", "http://224.0.0.1/", "http://240.0.0.1/", "http://198.18.0.1/"]
PRIVATE += [
    "http://[fc00::1]/",
    "http://[fe80::1]/",
    "http://[ff02::1]/",
    "http://[fec0::1]/",
    "http://metadata.internal/",
]
EMBEDDED = [
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[::127.0.0.1]/",
]
EMBEDDED += [
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:4136:e378::1]/",
    "http://[2001:db8::1]/",
    "http://[64:ff9b:1::1]/",
]
SHORT_FORMS = [
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://127.1/",
    "http://0/",
    "http://127.0.0.01/",
]
SHORT_FORMS += ["http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1./", "http://example.com./", "http://example.0x1/"]
WRITTEN_WRONG = [
    "unix:///tmp/s",
    "file:///etc/passwd",
    "gopher://example.com/",
    "ftp://example.com/",
    "//example.com/",
    "example.com",
]
WRITTEN_WRONG += [
    "https://user:pass@example.com/",
    "https://example.com@10.0.0.1/",
    "https://example.com#@10.0.0.1/",
    "https://",
]
WRITTEN_WRONG += [
    "https://example.com:22/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:x/",
]
WRITTEN_WRONG += [
    "https://[fe80::1%25eth0]/",
    "https://[example.com]/",
    "https://exa mple.com/",
    "https://example.com\\@10.0.0.1/",
]
WRITTEN_WRONG += [
    "https://xn--/",
    "https://xn--a/",
    "https://-a.example/",
    "https://a..example/",
    "https://bücher.example/",
]
WRITTEN_WRONG += [
    "https://example.com/\r\nx: y",
    "https://example.com/ü",
    "",
    "https://" + "a" * 64 + ".example/",
    "https://e.com/" + "a" * 2000,
]
REFUSED = [*LOOPBACK, *PRIVATE, *EMBEDDED, *SHORT_FORMS, *WRITTEN_WRONG]


def guard(allowed: str = "") -> AddressPolicy:
    return AddressPolicySettings(webhook_allow_cidrs=allowed).address_policy()


@pytest.mark.parametrize("url", PUBLIC)
def test_public_addresses_are_accepted(url: str) -> None:
    target = guard().target(url)
    assert target.host == target.host.lower()
    assert guard().target(target.url) == target


@pytest.mark.parametrize("url", REFUSED)
def test_w4_other_addresses_are_refused(url: str) -> None:
    """W4: with what is allowed instead."""
    with pytest.raises(Refused) as refused:
        guard().target(url)
    assert (refused.value.code, refused.value.status) == ("invalid_webhook", 422)
    assert refused.value.details["allowed"]


def test_urls_of_one_server_share_one_origin() -> None:
    urls = ["https://Example.com/a", "https://example.com:443/b?c", "https://example.com"]
    assert {guard().target(url).origin for url in urls} == {"https://example.com:443"}


def test_only_private_receivers_in_a_configured_cidr_are_allowed() -> None:
    opened = guard("10.0.0.0/8, fd00::/8")
    assert opened.target("http://10.1.2.3:5000/x").port == 5000
    assert opened.target("http://[fd00::1]:5000/x").origin == "http://[fd00::1]:5000"
    assert (
        opened.target("http://receiver:5000/x").host == "receiver"
    )  # what it stands for is seen when it is connected to
    for url in ("http://127.0.0.1/", "http://192.168.0.1:5000/", "http://[::ffff:10.1.2.3]/", "http://8.8.8.8:5000/"):
        with pytest.raises(Refused):
            opened.target(url)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("100.64.0.1", False),
        ("64:ff9b::808:808", False),
        ("2002::1", False),
    ],
)
def test_is_public(text: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(text)) == public


def test_ports_and_addresses_are_checked_together() -> None:
    opened = guard("10.0.0.0/8")
    inside, outside = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("8.8.8.8")
    opened.check_port(5000, [inside])
    for addresses in ([outside], [inside, outside], []):
        with pytest.raises(Refused):
            opened.check_port(5000, addresses)
    with pytest.raises(Refused):
        opened.check("x", [inside, ipaddress.ip_address("192.168.0.1")])


@pytest.mark.parametrize("name", ["webhook_allow_cidrs", "webhook_schemes", "webhook_ports"])
def test_invalid_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        AddressPolicySettings.model_validate({name: "10.0.0.1/8,x"})


async def test_w4_refused_at_submit_with_the_reason(queue: Server) -> None:
    with GatewayProcess(queue) as gateway:
        post = WebhookStack(gateway, None)  # type: ignore[arg-type] # nobody works here
        job = {"model": "m", "input": {"image": IMAGE}, "webhook": "http://169.254.169.254/latest"}
        await _announce(queue, gateway)
        answer = post.gateway.http.post("/v1/jobs", json=job)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_webhook")
        assert "169.254.169.254, which is not a public address" in answer.json()["detail"]
        assert answer.json()["allowed"] == ["add private receivers to JITNEY_WEBHOOK_ALLOW_CIDRS"]


async def _announce(queue: Server, gateway: GatewayProcess) -> None:
    from tests.support.gateways import Worker  # noqa: PLC0415

    worker = Worker(queue)
    await worker.announce(gateway)
    await worker.connection.aclose()


async def test_w4_refused_again_at_send(post: WebhookStack, queue: Server, receiver: Receiver) -> None:
    """W4: a webhook accepted under other settings, or by another release, is not sent."""
    with BackgroundProcess(queue, {"JITNEY_WEBHOOK_ALLOW_CIDRS": ""}):
        job = post.submit(receiver.url)
        await post.finish()
        errors = {attempt["error"] for attempt in post.ended(job, "failed")["attempts"]}
        assert len(errors) == 1
        assert "which is not a public address" in errors.pop()
        assert receiver.connections == 0


class Told:
    """One delivery of a job that has ended, and a sender for it, in this process."""

    def __init__(self, connection: RedisClient, server: Server, answers: Sequence[str]) -> None:
        self.store = JobStore(StoreSettings(redis_url=server.url), connection)
        self.settings = BackgroundSettings(
            webhook_allow_cidrs="127.0.0.1/32", webhook_schedule="0,0", webhook_timeout_s=2
        )
        self.asked: list[str] = []
        self._answers = list(answers)
        self.sender = Sender(self.settings, self.store, self._resolve)

    async def _resolve(self, host: str, _port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        self.asked.append(host)
        return [ipaddress.ip_address(self._answers.pop(0))]

    async def attempt(self, url: str) -> delivery_log.Delivery:
        """Make the due attempt, the first of a new job or the next; return the delivery afterwards."""
        root = self.store.roots[0]
        leases, _ = await outbox.dispatch_due(self.store, root, 1, lane="fast", slots=1, limits=self.sender.limits)
        if not leases:
            hook = webhook_request.read_webhook(url, self.settings.address_policy())
            await self.store.submit([Submission(new_job_id(0), "m", "1", "raw", b"in", webhook=hook)])
            (job,) = (await self.store.claim("m", "1", "w1", 1)).jobs
            await self.store.finish("w1", [Outcome(job.id, job.attempt, State.SUCCEEDED, b"{}")])
            leases, _ = await outbox.dispatch_due(self.store, root, 1, lane="fast", slots=1, limits=self.sender.limits)
        await self.sender.attempt(leases[0])
        return await delivery_log.get_delivery(self.store, "default", leases[0].delivery)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_w3_the_checked_address_is_the_one_connected_to(
    own: tuple[Server, RedisClient], scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W3: the resolver changes its answer; Host and TLS keep the name."""
    server, connection = own
    authority, names = trustme.CA(), list[str | None]()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.example").configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    tls = context if scheme == "https" else None
    told = Told(connection, server, ["127.0.0.1", "127.0.0.2", "10.0.0.1"])
    with Receiver(ssl=tls) as outside, Receiver(ssl=tls, host="127.0.0.2", port=outside.port) as inside:
        url = f"{scheme}://receiver.example:{outside.port}/hook"
        first = await told.attempt(url)
        assert (first.state, told.asked) == ("delivered", ["receiver.example"])
        assert outside.got[0].headers["host"] == f"receiver.example:{outside.port}"
        assert names == (["receiver.example"] if tls else [])
        await told.sender.close(1)
        told.sender = Sender(told.settings, told.store, told._resolve)  # a new connection resolves again
        second = await told.attempt(url)
        assert (second.state, second.attempts[0]["status"]) == ("waiting", None)
        assert "127.0.0.2, which is not a public address" in second.attempts[0]["error"]
        third = await told.attempt(url)
        assert (third.id, third.state) == (second.id, "failed")
        assert (inside.connections, len(outside.got)) == (0, 1)
    await told.sender.close(1)


async def test_a_certificate_of_another_name_is_refused(own: tuple[Server, RedisClient]) -> None:
    server, connection = own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("other.example").configure_cert(context)
    told = Told(connection, server, ["127.0.0.1"])
    with Receiver(ssl=context) as receiver:
        delivery = await told.attempt(f"https://receiver.example:{receiver.port}/")
        assert "TLS failed" in delivery.attempts[0]["error"]
        assert receiver.got == []
    await told.sender.close(1)


def test_networks_are_parsed() -> None:
    assert [str(network) for network in parse_networks("10.0.0.0/8, ::1/128")] == ["10.0.0.0/8", "::1/128"]
