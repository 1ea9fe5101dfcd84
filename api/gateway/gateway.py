"""The state that all routes of a gateway share, its background loops, and a tenant's access to its own jobs."""

import asyncio
import logging
import secrets
import signal
from contextlib import suppress
from typing import Any

from api.asgi.cors import CorsPolicy, read_origins
from api.asgi.request import Request
from api.asgi.tenant_budgets import RETRY_AFTER_S, BudgetShare, TenantBudget
from api.auth.access_control import AccessControl
from api.auth.authentication import Authenticator
from api.gateway import maintenance
from api.gateway.event_streams import EventStreams
from api.gateway.job_waiters import JobWaiters
from api.gateway.known_requests import KnownRequests
from api.gateway.list_scheduler import ListScheduler
from api.gateway.memory_watermark import MemoryWatermark
from api.gateway.output_streams import PIECES_HELD, OutputStreams
from api.gateway.retry_after import RetryAfterEstimator
from api.gateway.rollout_controller import RolloutController
from api.gateway.submit_coalescer import SubmitCoalescer
from api.metrics.gateway_metrics import GatewayMetrics
from api.metrics.process_counters import ProcessCounters
from api.settings import GatewaySettings
from jobs.bulk.open_storage import open_storage
from jobs.bulk.settings import BulkSettings
from jobs.config.settings_agreement import Process, QueueMismatch, SettingsAgreement
from jobs.config.settings_base import EX_CONFIG
from jobs.contract import webhook_request
from jobs.contract.errors import OverLimit, QueueFull, RetryLater, StoreUnavailable
from jobs.contract.ids import JOB_ID
from jobs.contract.job import Job
from jobs.metrics import heap_trim
from jobs.models import pauses
from jobs.models.catalog import ModelCatalog
from jobs.models.pauses import Pauses
from jobs.redis_client import keys
from jobs.redis_client.pubsub import Subscriber
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store import events
from jobs.store.job_store import JobStore
from jobs.tenants import api_keys, stored_limits
from jobs.tenants.stored_limits import StoredLimits
from jobs.tracing.tracer import open_tracer
from jobs.webhooks import signing_secrets

log = logging.getLogger("jitney.api")

RETRY_S = 0.5
MIN_COMPARE_INTERVAL_S = 1.0  # between two comparisons with the settings of other processes


class Gateway:
    """One gateway process: the settings, the job store, the catalog, the budgets and the background loops."""

    def __init__(
        self,
        settings: GatewaySettings,
        store: JobStore,
        bulk: BulkSettings,
        *,
        on_loopback: bool = True,
        process_counters: ProcessCounters | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.settings, self.store = settings, store
        self.bulk, self.storage = bulk, open_storage(bulk.bulk_store)
        self.cors = CorsPolicy(read_origins(settings.cors_origins))
        self.callers = Authenticator(store.connection, settings.allow_anonymous, self.cors, on_loopback=on_loopback)
        self.access_control = AccessControl(self.callers, store.tenants, store.settings.tenant_window_s)
        self.catalog = ModelCatalog(store.connection, settings.default_model)
        self._create_budgets(settings)
        self.known_requests = KnownRequests(store.settings.shards)
        self.waiting, self.submits = JobWaiters(store), SubmitCoalescer(store)
        self.events = EventStreams(store, self.id, settings.sse_keepalive_s, settings.max_streams, self.outputs)
        self.retry_after, self.watermark = RetryAfterEstimator(), MemoryWatermark(settings.memory_watermark)
        self.address_policy = settings.address_policy()
        process = Process.this("gateway", self.id, settings, store.settings, bulk)
        compare_s = max(MIN_COMPARE_INTERVAL_S, settings.model_refresh_s)
        self.agreement = SettingsAgreement(store.connection, process, store.settings.shards, compare_s)
        self.tracer = open_tracer("gateway", self.id)
        self.process_counters = process_counters or ProcessCounters()
        self.metrics = GatewayMetrics(store, self.id, settings.metrics_flush_s, self.process_counters)
        self.limits = StoredLimits(store.connection, store.tenants)
        self.pauses = Pauses(store.connection)
        self.lists = ListScheduler()
        self.is_draining = False  # /readyz returns 503, so that load balancers send no more requests
        self.exit_code = 0  # set when the gateway stops itself
        self.supervisor = TaskSupervisor(self._on_loop_end)

    def _create_budgets(self, settings: GatewaySettings) -> None:
        def too_many(message: str) -> RetryLater:
            return OverLimit("rate_limited", message, retry_after_s=RETRY_AFTER_S)

        def no_room(message: str) -> RetryLater:
            return QueueFull(message, limit_bytes=settings.max_buffered_body_bytes, retry_after_s=RETRY_AFTER_S)

        limit_bytes, largest_bytes = settings.max_buffered_body_bytes, settings.max_body_bytes
        self.bodies = TenantBudget(limit_bytes, "bytes of request bodies", no_room, largest_bytes)
        # Fewer than connections: the tenant of a connection is unknown until its first request arrives.
        requests = max(1, settings.max_connections * 9 // 10)
        self.requests = TenantBudget(requests, "requests in progress", too_many, largest=1)
        self.awaited = TenantBudget(settings.max_waiters, "awaited jobs", too_many, settings.max_jobs_per_request)
        budget = TenantBudget(
            settings.max_buffered_output_bytes,
            "bytes of large outputs that are being sent",
            too_many,
            largest=PIECES_HELD * self.store.settings.output_chunk_bytes,
        )
        self.outputs = OutputStreams(self.store, budget, settings.max_buffered_output_bytes)

    async def start(self) -> None:
        """Load the API keys and the models, if Redis answers, then start the background loops."""
        with suppress(StoreUnavailable):
            await self.refresh_models()
            await self.callers.refresh()
        channels = [keys.gateway_channel(self.id), keys.INVALIDATION, keys.EVENTS]
        start, settings, store = self.supervisor.start, self.settings, self.store
        start(Subscriber(store.connection, channels, self._on_notification, self._on_connect).run())
        start(self.waiting.run(settings.wait_recheck_s))
        start(self.callers.run(settings.api_key_refresh_s))
        start(self.limits.run(settings.api_key_refresh_s))
        start(self.pauses.run(settings.model_refresh_s))
        start(self.events.run(settings.api_key_refresh_s))
        start(RolloutController(store, self.catalog, settings).run())
        start(self._compare_settings())
        start(self._refresh_models_periodically())
        start(maintenance.watch_server(self.retry_after, self.watermark, store, settings.model_refresh_s))
        start(maintenance.run_sweeps(store, settings.sweep_interval_s, lambda: self.catalog.cluster.longest_lease_s))
        start(self.metrics.run())
        start(self.metrics.measure_delay())
        start(heap_trim.run(settings.sweep_interval_s))

    async def stop(self) -> None:
        await self.supervisor.cancel()
        with suppress(StoreUnavailable):
            await self.metrics.close()
            await self.agreement.withdraw()
        await self.store.connection.aclose()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    async def refresh_models(self) -> None:
        """Read the announced models; raises StoreUnavailable.

        JITNEY_SHARDS, the tenants' limits and the pauses are read first: no job is accepted before models are known.
        """
        try:
            await self.agreement.check()
        except QueueMismatch as error:  # `_compare_settings` stops this process
            raise StoreUnavailable(str(error)) from error
        await self.limits.check()
        await self.pauses.refresh()
        await self.catalog.refresh()

    async def _compare_settings(self) -> None:
        """Announce and compare the settings until cancelled. Stop the process if its JITNEY_SHARDS differs."""
        try:
            await self.agreement.run_until_mismatch()
        except QueueMismatch as error:
            log.critical("%s", error)
            self.exit_code = EX_CONFIG
            signal.raise_signal(signal.SIGTERM)

    async def _refresh_models_periodically(self) -> None:
        while True:
            try:
                await self.refresh_models()
                break
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
        await self.catalog.run(self.settings.model_refresh_s)

    def end_waits(self) -> None:
        """Resolve all waiting requests and end all event streams; called on shutdown."""
        self.waiting.close()
        self.events.close()

    def refusal(self, model: str, lane: str) -> RetryLater | None:
        """Return the error that refuses new jobs of this queue at present, or None if they are accepted."""
        return self.watermark.refusal(lane) or self.pauses.refusal(model, lane)

    def reserve_body(self, request: Request, idempotency_key: str) -> BudgetShare:
        """Return the share of the body budget for a request; raises QueueFull if no new job is accepted at present."""
        refusal = self.watermark.refusal("interactive")
        if refusal is not None and not idempotency_key:
            raise refusal
        return self.bodies.hold(request.tenant, request.evict)

    async def wait(self, tenant: str | None, job_id: str, wait_s: float) -> Job:
        """Return a job once it is final or `wait_s` is over, without a large output.

        Raises Refused if it does not belong to the tenant (None: any tenant).
        """
        future = self.waiting.expect(self.check_job_id(job_id))
        try:
            job = self._check_owner(tenant, job_id, await self.store.wait(job_id, self.id))
        except BaseException:
            self.waiting.forget(job_id, future)
            raise
        if job.is_final:
            self.waiting.forget(job_id, future)
            return job
        self.waiting.confirm(job_id)
        ended = await self.waiting.wait_until_final(job_id, future, wait_s)
        return await self.read(tenant, job_id) if ended is None else ended

    async def read(self, tenant: str | None, job_id: str) -> Job:
        """Return a job as it is, without a large output; raises Refused if it is not the tenant's (None: any)."""
        (job,) = await self.store.read([self.check_job_id(job_id)])
        return self._check_owner(tenant, job_id, job)

    async def cancel(self, tenant: str | None, job_id: str) -> Job:
        """Cancel a job; raises Refused if it is unknown or final."""
        await self.store.cancel(self.check_job_id(job_id), tenant)
        return await self.read(tenant, job_id)

    async def attach(self, tenant: str, job_id: str, webhook: Any) -> tuple[str, str]:
        """Attach a webhook to a job, see `signing_secrets.attach_webhook`; raises Refused if it is invalid."""
        request = webhook_request.read_webhook(webhook, self.address_policy)
        return await signing_secrets.attach_webhook(self.store, self.check_job_id(job_id), tenant, request)

    def check_job_id(self, job_id: str) -> str:
        """Return a valid job id; raises Refused for another text."""
        if not JOB_ID.fullmatch(job_id):
            raise self.store.unknown(job_id[:64])
        return job_id

    def _check_owner(self, tenant: str | None, job_id: str, job: Job | None) -> Job:
        if job is None or (job.tenant != tenant and tenant is not None):
            raise self.store.unknown(job_id)
        return job

    async def _on_connect(self) -> None:
        """Refresh all cached state: notifications may have been lost while disconnected."""
        self.callers.refresh_now()
        self.limits.refresh_now()
        self.pauses.refresh_now()
        self.events.refresh_now()
        await self.waiting.refresh_now()

    def _on_notification(self, channel: str, data: bytes) -> None:
        if channel == keys.INVALIDATION:
            if data == api_keys.API_KEYS_CHANGED:
                self.callers.refresh_now()
            elif data == stored_limits.LIMITS_CHANGED:
                self.limits.refresh_now()
            elif data == events.LISTENERS_CHANGED:
                self.events.refresh_now()
            elif data == pauses.PAUSES_CHANGED:
                self.pauses.refresh_now()
            else:
                self.catalog.refresh_now()
        elif channel == keys.EVENTS:
            self.events.on_log_change(data)
        else:
            self.waiting.on_notification(data)
            self.events.on_notification(data)

    def _on_loop_end(self, loop: asyncio.Task[Any]) -> None:
        """Stop the process if a loop has ended by itself; the supervisor of the process starts another."""
        if not loop.cancelled():
            log.critical("a background loop ended unexpectedly: stopping the gateway", exc_info=loop.exception())
            self.exit_code = self.exit_code or 1
            signal.raise_signal(signal.SIGTERM)
