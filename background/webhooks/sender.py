"""One attempt: read what is to be sent, sign it, send it, judge the answer, settle it.

The answer's body is read so far that the connection can be used again, and neither kept nor shown.
"""

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Final

import httpcore2

from background.settings import BackgroundSettings
from background.webhooks import guarded_client, payload, retry_schedule
from background.webhooks.signing import sign_payload
from jobs.contract.background_lease import BackgroundLease
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.store.job_store import JobStore
from jobs.webhooks import outbox
from jobs.webhooks.outbox import Attempt, Settlement, SettleResult
from jobs.webhooks.signing_secrets import read_secrets

log = logging.getLogger("jitney.deliver")

USER_AGENT: Final = "Jitney-Webhooks/1"
BODY_BYTES: Final = 64 << 10
BODY_S: Final = 1.0
GONE: Final = 410
MAX_LOCATION_CHARS: Final = 500  # characters of a Location that are shown
PAUSE_S: Final = 0.2


class Sender:
    """Makes attempts; each has one deadline for all of it, so a receiver that drips bytes gains nothing."""

    def __init__(
        self,
        settings: BackgroundSettings,
        store: JobStore,
        resolve: guarded_client.Resolve = guarded_client.resolve_host,
    ) -> None:
        self._settings, self._store = settings, store
        self._guard, self.limits = settings.address_policy(), settings.limits
        connections = settings.webhook_concurrency + settings.webhook_slow_concurrency
        self._http = guarded_client.create_client(self._guard, connections, resolve)
        self._running: set[asyncio.Task[None]] = set()

    async def attempt(self, lease: BackgroundLease) -> None:
        """Make an attempt, unless this flight is not the delivery's last one any more."""
        task = asyncio.ensure_future(self._attempt(lease))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def close(self, within_s: float) -> None:
        """Let attempts end that are under way; what does not is given back, and made again by whoever comes next."""
        if self._running:
            await asyncio.wait(self._running, timeout=within_s)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._http.aclose()

    async def _attempt(self, lease: BackgroundLease) -> None:
        attempt: Attempt | None = None
        try:
            attempt = await outbox.begin_attempt(self._store, lease, self.limits)
            if attempt is None:
                return
            secrets = await read_secrets(self._store.connection, attempt.tenant)
            settled = await self._send(attempt, secrets)
        except StoreUnavailable:  # it counts as lost before long, and is made again
            return
        except asyncio.CancelledError:
            with contextlib.suppress(StoreUnavailable):
                await outbox.settle_attempt(self._store, lease, Settlement("lost", {}), self.limits)
            raise
        except Exception as error:
            log.exception("delivery %s cannot be attempted", lease.delivery)
            settled = await self._settlement_of_error(attempt, error)
        news = await self._settle(lease, settled)
        if attempt is not None:
            self._log_endpoint_change(attempt, settled, news)

    async def _settlement_of_error(self, attempt: Attempt | None, error: Exception) -> Settlement:
        """Count an internal error as an attempt that failed; a delivery that cannot even be read ends with it."""
        what = f"an internal error: {type(error).__name__}"
        now_ms = 0 if attempt is None else attempt.now_ms
        if attempt is None:
            with contextlib.suppress(StoreUnavailable):
                now_ms = await self._store.connection.now_ms()
        entry: dict[str, object] = {"at_ms": now_ms, "ms": 0, "status": None, "error": what}
        return (
            Settlement("stopped", entry) if attempt is None else self._classify_response(attempt, entry, None, {}, 0.0)
        )

    def _log_endpoint_change(self, attempt: Attempt, settled: Settlement, news: SettleResult) -> None:
        """Say once that an endpoint fails, and once that it is well again, not with each of its deliveries."""
        if news not in ("failing", "well", "paused"):
            return
        origin = "/".join(attempt.url.split("/", 3)[:3])  # paths of webhooks are often secrets
        if news == "well":
            log.info("%s, of tenant %s, takes webhooks again", origin, attempt.tenant)
            return
        why = settled.entry.get("error") or f"it answers {settled.entry.get('status')}"
        what = "does not take webhooks" if news == "failing" else "has not taken one for long, and is paused"
        log.warning("%s, of tenant %s, %s: %s", origin, attempt.tenant, what, why)

    async def _settle(self, lease: BackgroundLease, settled: Settlement) -> SettleResult:
        """Write it down, also after an outage, as long as the flight is ours: what was received is not sent again."""
        until_s = time.monotonic() + self._settings.webhook_lease_s
        while time.monotonic() < until_s:
            try:
                return await outbox.settle_attempt(self._store, lease, settled, self.limits)
            except StoreUnavailable:
                await asyncio.sleep(PAUSE_S)
        return "refused"

    async def _send(self, attempt: Attempt, secrets: Sequence[str]) -> Settlement:
        began_s, error = time.monotonic(), ""
        status: int | None = None
        headers: list[tuple[bytes, bytes]] = []
        location = ""
        try:
            url = self._guard.target(attempt.url).url
            async with asyncio.timeout(self._settings.webhook_timeout_s):
                status, headers = await self._post(attempt, url, secrets)
        except Exception as failure:  # noqa: BLE001 (whatever a receiver does to us is an attempt that failed)
            error = _describe_failure(failure)
        took_s = time.monotonic() - began_s
        response_headers = {name.lower(): value.decode("latin-1") for name, value in headers}
        if status is not None and 300 <= status < 400:
            error, location = "redirects are not followed", _printable(response_headers.get(b"location", ""))
        entry: dict[str, object] = {"at_ms": attempt.now_ms, "ms": round(took_s * 1000, 1), "status": status}
        entry |= {name: text for name, text in (("error", error), ("location", location)) if text}
        return self._classify_response(attempt, entry, status, response_headers, took_s)

    async def _post(self, attempt: Attempt, url: str, secrets: Sequence[str]) -> tuple[int, list[tuple[bytes, bytes]]]:
        webhook_id, now_s = attempt.lease.delivery, attempt.now_ms // 1000
        body = payload.build_payload(attempt, self._settings.public_url)
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": webhook_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign_payload(secrets, webhook_id, now_s, body),
        }
        wire = [("host", _host_of(url)), *headers.items(), *attempt.headers.items(), ("content-length", str(len(body)))]
        async with self._http.stream("POST", url, headers=wire, content=body) as response:
            # The verdict stands; what follows is read for the connection's sake.
            with contextlib.suppress(httpcore2.NetworkError, httpcore2.ProtocolError, TimeoutError):
                async with asyncio.timeout(min(BODY_S, self._settings.webhook_timeout_s / 4)):
                    read = 0
                    async for chunk in response.aiter_stream():
                        read += len(chunk)
                        if read > BODY_BYTES:
                            break
            return response.status, response.headers

    def _classify_response(
        self,
        attempt: Attempt,
        entry: dict[str, object],
        status: int | None,
        response_headers: dict[bytes, str],
        took_s: float,
    ) -> Settlement:
        s = self._settings
        first_ms = attempt.age_ms if attempt.tries == 0 else None
        slow = took_s >= min(s.webhook_slow_s, s.webhook_timeout_s)
        if status is not None and 200 <= status < 300:
            return Settlement("delivered", entry, slow=slow, first_ms=first_ms)
        if status == GONE or response_headers.get(b"webhook-delivery", "").strip() == "abort-message":
            return Settlement("stopped", {**entry, "error": "the receiver wants no more of it"}, first_ms=first_ms)
        rest_s = retry_schedule.parse_retry_after(
            response_headers.get(b"retry-after", ""), attempt.now_ms / 1000 + took_s
        )
        made = attempt.tries - attempt.since + 1
        chance = random.random()  # noqa: S311 (jitter)
        after_s = retry_schedule.next_delay_s(s.schedule, made, rest_s, chance, s.webhook_jitter)
        # A failure says nothing of how fast a receiver is, but for a late one.
        how = {"rest_ms": int(rest_s * 1000), "slow": slow or None, "first_ms": first_ms}
        if after_s is None:
            return Settlement("failed", entry, **how)  # type: ignore[arg-type]
        return Settlement("retry", entry, int(after_s * 1000), **how)  # type: ignore[arg-type]


def _printable(text: str) -> str:
    """Give what a receiver said in a form that can be shown."""
    return "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in text[:MAX_LOCATION_CHARS])


def _host_of(url: str) -> str:
    return url.split("/", 3)[2]


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


def _describe_failure(failure: Exception) -> str:
    """Say what went wrong, without a word of what the receiver sent."""
    if isinstance(failure, Refused | guarded_client.AddressRefused | guarded_client.ResolutionFailed):
        return str(failure)[:200]
    if isinstance(failure, TimeoutError | httpcore2.TimeoutException):
        return "no answer in time"
    if broken := next((one for one in _chain(failure) if isinstance(one, ssl.SSLError)), None):
        return f"TLS failed: {broken.reason or 'no agreement'}"[:200]
    if isinstance(failure, httpcore2.ConnectError):
        return "the connection was refused, or can not be made"
    if isinstance(failure, httpcore2.NetworkError | httpcore2.ProtocolError):
        return "the connection broke before an answer came"
    log.error("an attempt failed in a way that nobody thought of", exc_info=failure)
    return f"a fault of ours: {type(failure).__name__}"
