"""Makes one webhook attempt: reads the delivery, signs and sends it, classifies the response, settles the attempt.

A payload has the finished job with its output if that is small, else with a link. Signatures are those of Standard
Webhooks: HMAC-SHA256 over `id.timestamp.body`, one for each valid secret.

The response body is read only so far that the connection can be reused; it is neither stored nor shown.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import random
import ssl
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Final

import httpcore2
import orjson

from background.settings import BackgroundSettings
from background.webhooks import guarded_client
from background.webhooks.guarded_client import AddressRefused, ResolutionFailed, Resolve, resolve_host
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.contract.job_view import format_timestamp, job_view
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.tracing.tracer import Span, Tracer
from jobs.webhooks import outbox
from jobs.webhooks.outbox import Attempt, Settlement, SettleResult
from jobs.webhooks.signing_secrets import SECRET_PREFIX, read_secrets

log = logging.getLogger("jitney.background")

USER_AGENT: Final = "Jitney-Webhooks/1"
BODY_BYTES: Final = 64 << 10
BODY_S: Final = 1.0
GONE: Final = 410
MAX_LOCATION_CHARS: Final = 500  # characters of a Location that are shown
PAUSE_S: Final = 0.2
MAX_RETRY_AFTER_S: Final = 36_000.0  # longest delay that a receiver may request

Entry = dict[str, object]  # an attempt in the log of a delivery


class Sender:
    """Makes attempts; each has one deadline for everything, so a slow receiver cannot prolong it."""

    def __init__(
        self,
        settings: BackgroundSettings,
        store: JobStore,
        resolve: Resolve = resolve_host,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings, self._store, self._tracer = settings, store, tracer
        self._address_policy, self.limits = settings.address_policy(), settings.limits
        connections = settings.webhook_concurrency + settings.webhook_slow_concurrency
        self._http = guarded_client.create_client(self._address_policy, connections, resolve)
        self._tasks = TaskSupervisor()

    async def attempt(self, lease: BackgroundLease) -> None:
        """Make an attempt, unless the lease has been superseded."""
        await asyncio.shield(self._tasks.run(self._attempt(lease)))

    async def close(self, within_s: float) -> None:
        """Wait up to `within_s` seconds for the attempts under way, give the others back, and export spans."""
        await self._tasks.finish_work(within_s)
        await self._http.aclose()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    async def _attempt(self, lease: BackgroundLease) -> None:
        attempt: Attempt | None = None
        try:
            attempt = await outbox.begin_attempt(self._store, lease, self.limits)
            if attempt is None:
                return
            settled = await self._send(attempt, await read_secrets(self._store.connection, attempt.tenant))
        except StoreUnavailable:  # its lease will expire, and the attempt will be made again
            return
        except asyncio.CancelledError:
            with contextlib.suppress(StoreUnavailable):
                await outbox.settle_attempt(self._store, lease, Settlement("lost", {}), self.limits)
            raise
        except Exception as error:
            log.exception("cannot attempt delivery %s", lease.delivery)
            settled = await self._settlement_of_error(attempt, error)
        result = await self._settle(lease, settled)
        if attempt is not None:
            self._log_endpoint_change(attempt, settled, result)

    async def _settlement_of_error(self, attempt: Attempt | None, error: Exception) -> Settlement:
        """Return the settlement of an internal error: a failed attempt; if the delivery cannot be read, its end."""
        text = f"an internal error: {type(error).__name__}"
        now_ms = 0 if attempt is None else attempt.now_ms
        if attempt is None:
            with contextlib.suppress(StoreUnavailable):
                now_ms = await self._store.connection.now_ms()
        entry: Entry = {"at_ms": now_ms, "ms": 0, "status": None, "error": text}
        if attempt is None:
            return Settlement("stopped", entry)
        return self._classify_response(attempt, entry, None, {}, 0.0)

    def _log_endpoint_change(self, attempt: Attempt, settled: Settlement, result: SettleResult) -> None:
        """Log once per endpoint when it starts to fail, recovers or is paused."""
        if result not in ("failing", "well", "paused"):
            return
        origin = "/".join(attempt.url.split("/", 3)[:3])  # webhook paths often hold secrets
        if result == "well":
            log.info("webhook endpoint %s of tenant %s works again", origin, attempt.tenant)
            return
        reason = settled.entry.get("error") or f"it responds {settled.entry.get('status')}"
        state = "fails" if result == "failing" else "has failed for long and is paused"
        log.warning("webhook endpoint %s of tenant %s %s: %s", origin, attempt.tenant, state, reason)

    async def _settle(self, lease: BackgroundLease, settled: Settlement) -> SettleResult:
        """Settle the attempt; retries during the lease while Redis is away, so that no webhook is sent twice."""
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
        traceparent = attempt.job.request_context.traceparent if attempt.job and attempt.job.request_context else ""
        span = self._tracer.begin("webhook delivery", traceparent, "client") if self._tracer and traceparent else None
        try:
            url = self._address_policy.target(attempt.url).url
            async with asyncio.timeout(self._settings.webhook_timeout_s):
                status, headers = await self._post(attempt, url, secrets, span.traceparent if span else traceparent)
        except Exception as failure:  # noqa: BLE001 (any error of a receiver is a failed attempt)
            error = _describe_failure(failure)
        took_s = time.monotonic() - began_s
        response_headers = {name.lower(): value.decode("latin-1") for name, value in headers}
        if status is not None and 300 <= status < 400:
            error, location = "redirects are not followed", _printable(response_headers.get(b"location", ""))
        entry: Entry = {"at_ms": attempt.now_ms, "ms": round(took_s * 1000, 1), "status": status}
        entry |= {name: text for name, text in (("error", error), ("location", location)) if text}
        if self._tracer and span:
            self._end_span(self._tracer, span, attempt, entry)
        return self._classify_response(attempt, entry, status, response_headers, took_s)

    def _end_span(self, tracer: Tracer, span: Span, attempt: Attempt, entry: Entry) -> None:
        attributes: dict[str, str | int] = {
            "server.address": attempt.url.split("/", 3)[2],  # without the path, which often holds a secret
            "http.request.method": "POST",
            "jitney.delivery": attempt.lease.delivery,
            "jitney.attempt": attempt.tries + 1,
        }
        if isinstance(status := entry["status"], int):
            attributes["http.response.status_code"] = status
        is_delivered = isinstance(status, int) and 200 <= status < 300
        tracer.end(span, attributes, failed="" if is_delivered else str(entry.get("error") or f"status {status}"))

    async def _post(
        self, attempt: Attempt, url: str, secrets: Sequence[str], traceparent: str
    ) -> tuple[int, list[tuple[bytes, bytes]]]:
        webhook_id, now_s = attempt.lease.delivery, attempt.now_ms // 1000
        body = _build_payload(attempt, self._settings.public_url)
        headers = {
            "host": url.split("/", 3)[2],
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": webhook_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": _sign_payload(secrets, webhook_id, now_s, body),
        }
        if traceparent and "traceparent" not in map(str.lower, attempt.headers):
            headers["traceparent"] = traceparent
        fields = [*headers.items(), *attempt.headers.items(), ("content-length", str(len(body)))]
        async with self._http.stream("POST", url, headers=fields, content=body) as response:
            # The status is known. The body is read only so that the connection can be reused.
            with contextlib.suppress(httpcore2.NetworkError, httpcore2.ProtocolError, TimeoutError):
                async with asyncio.timeout(min(BODY_S, self._settings.webhook_timeout_s / 4)):
                    read = 0
                    async for chunk in response.aiter_stream():
                        read += len(chunk)
                        if read > BODY_BYTES:
                            break
            return response.status, response.headers

    def _classify_response(
        self, attempt: Attempt, entry: Entry, status: int | None, headers: dict[bytes, str], took_s: float
    ) -> Settlement:
        s = self._settings
        first_ms = attempt.age_ms if attempt.tries == 0 else None
        slow = took_s >= min(s.webhook_slow_s, s.webhook_timeout_s)
        if status is not None and 200 <= status < 300:
            return Settlement("delivered", entry, slow=slow, first_ms=first_ms)
        if status == GONE or headers.get(b"webhook-delivery", "").strip() == "abort-message":
            return Settlement("stopped", {**entry, "error": "the receiver refused further attempts"}, first_ms=first_ms)
        retry_after_s = _parse_retry_after(headers.get(b"retry-after", ""), attempt.now_ms / 1000 + took_s)
        made = attempt.tries - attempt.since + 1
        chance = random.random()  # noqa: S311 (jitter)
        after_s = _next_delay_s(s.schedule, made, retry_after_s, chance, s.webhook_jitter)
        # A failure does not show how fast a receiver is, unless it was slow.
        details = {"rest_ms": int(retry_after_s * 1000), "slow": slow or None, "first_ms": first_ms}
        if after_s is None:
            return Settlement("failed", entry, **details)  # type: ignore[arg-type]
        return Settlement("retry", entry, int(after_s * 1000), **details)  # type: ignore[arg-type]


def _printable(text: str) -> str:
    """Return the receiver's text, shortened and with unprintable characters replaced."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text[:MAX_LOCATION_CHARS])


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


def _describe_failure(failure: Exception) -> str:
    """Describe a failure without text from the receiver."""
    if isinstance(failure, Refused | AddressRefused | ResolutionFailed):
        return str(failure)[:200]
    if isinstance(failure, TimeoutError | httpcore2.TimeoutException):
        return "no response in time"
    if broken := next((cause for cause in _chain(failure) if isinstance(cause, ssl.SSLError)), None):
        return f"TLS failed: {broken.reason or 'handshake failed'}"[:200]
    if isinstance(failure, httpcore2.ConnectError):
        return "cannot connect"
    if isinstance(failure, httpcore2.NetworkError | httpcore2.ProtocolError):
        return "the connection broke before the response"
    log.error("a webhook attempt failed unexpectedly", exc_info=failure)
    return f"an internal error: {type(failure).__name__}"


def _build_payload(attempt: Attempt, public_url: str) -> bytes:
    """Return the payload; every attempt of a delivery has the same bytes."""
    job = attempt.job
    if job is None:
        return attempt.payload
    link = f"{public_url.rstrip('/')}/v1/jobs/{job.id}" if attempt.output_bytes and job.output is None else None
    data = {**job_view(job), "output_url": link}
    return orjson.dumps({"type": f"job.{attempt.event}", "timestamp": format_timestamp(job.finished_us), "data": data})


def _sign_payload(secrets: Sequence[str], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the signatures with all secrets, so that a receiver with any one of them can verify."""
    text = f"{webhook_id}.{timestamp_s}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()}" for key in keys)


def _next_delay_s(delays_s: Sequence[float], made: int, min_s: float, chance: float, jitter: float) -> float | None:
    """Return the seconds until the next attempt after `made` attempts, or None if there is none. `chance` is 0 to 1.

    The delay is never shorter than `min_s`, which the receiver requested.
    """
    if made >= len(delays_s):
        return None
    return max(delays_s[made] * (1 + jitter * (2 * chance - 1)), min_s)


def _parse_retry_after(text: str, now_s: float) -> float:
    """Return the seconds of a Retry-After header (seconds or a date); 0 if it cannot be parsed."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, until_s - now_s), MAX_RETRY_AFTER_S)
