"""Runs one gateway process (`python -m api`): reads the settings, opens the socket, serves until SIGTERM."""

import argparse
import asyncio
import importlib
import ipaddress
import logging
import math
import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from jobs.config.fast_imports import fast_imports

with fast_imports():
    import uvicorn
    from pydantic import ValidationError

    from api.app import create_app
    from api.asgi.connection_limits import ConnectionLimits, sweep_connections
    from api.asgi.protocol import protocol_with_limits
    from api.asgi.request_observer import RequestObserver
    from api.gateway.gateway import Gateway
    from api.gateway.traced_app import TracedApp
    from api.metrics.process_counters import ProcessCounters
    from api.settings import GatewaySettings
    from jobs.bulk.settings import BulkSettings
    from jobs.config import logs
    from jobs.config.settings_agreement import QueueMismatch, check_shards_at_start
    from jobs.config.settings_base import EX_CONFIG, format_validation_error
    from jobs.metrics import heap_trim
    from jobs.redis_client.client import RedisClient
    from jobs.redis_client.event_wait import wait_for_event
    from jobs.store.job_store import JobStore
    from jobs.store.settings import StoreSettings

if TYPE_CHECKING:
    from api.grpc_server.server import GrpcServer

log = logging.getLogger("jitney.api")

DRAIN_S = 2
GRPC_DRAIN_S = 1.5  # less, so that the calls that are ended then can cancel their jobs
TICKS_PER_S = 10  # uvicorn renews the Date header each time this number of ticks has passed
RESERVED_FILES = 100  # besides connections: modules, logs, Redis, uploads in progress


class CannotServeGrpc(Exception):
    """gRPC is on and cannot be served; the message is for the operator."""


class GatewayServer(uvicorn.Server):
    """uvicorn server that resolves all waiting requests when it shuts down.

    `/readyz` returns 503 from the first signal. The shutdown begins JITNEY_LAME_DUCK_S later, or at a second signal.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        gateway: Gateway,
        limits: ConnectionLimits,
        up_fd: int | None,
        grpc_server: "GrpcServer | None" = None,
    ) -> None:
        super().__init__(config)
        self._gateway, self._limits, self._up_fd, self._grpc_server = gateway, limits, up_fd, grpc_server
        self._grpc_stop: asyncio.Task[None] | None = None
        self._shutdown_at: float | None = None  # on the monotonic clock
        self._signaled = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # of `main_loop`

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        gateway = self._gateway
        lame_duck_s = 0.0 if gateway.is_draining else gateway.settings.lame_duck_s
        gateway.is_draining = True
        if gateway.exit_code:  # already stopping: exit with this code, not by the signal
            self.should_exit = True
        elif lame_duck_s:
            self._captured_signals.append(sig)
            self._shutdown_at = time.monotonic() + lame_duck_s
            message = "shutting down in %g s (JITNEY_LAME_DUCK_S): /readyz returns 503, requests are still served"
            log.info(message, lame_duck_s)
        else:
            super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signaled.set)

    async def main_loop(self) -> None:
        """Tick once a second, and at once after a signal. uvicorn's own loop ticks ten times as often."""
        self._loop, counter = asyncio.get_running_loop(), 0
        while True:
            self._signaled.clear()
            if await self.on_tick(counter):
                return
            counter += TICKS_PER_S
            shutdown_s = math.inf if self._shutdown_at is None else self._shutdown_at - time.monotonic()
            await wait_for_event(self._signaled, max(0.0, min(1.0, shutdown_s)))

    async def on_tick(self, counter: int) -> bool:
        if self._shutdown_at is not None and time.monotonic() >= self._shutdown_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._gateway.metrics.connections = self.server_state.connections
            self._gateway.supervisor.start(sweep_connections(self.server_state.connections, self._limits))
            if self._grpc_server is not None:
                await self._grpc_server.start()
        if self._up_fd is not None and self.started:
            os.write(self._up_fd, b"\n")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.end_waits()
        if self._grpc_server is not None:
            self._grpc_stop = asyncio.create_task(self._grpc_server.stop(GRPC_DRAIN_S))
        await super().shutdown(sockets)

    async def _wait_tasks_to_complete(self) -> None:
        """Wait for the requests in progress, at most DRAIN_S seconds. The gateway stops afterwards."""
        await super()._wait_tasks_to_complete()
        if self._grpc_stop is not None:
            await self._grpc_stop


def main(argv: Sequence[str] | None = None) -> int:
    """Run one gateway and return the exit code."""
    epilog = "jitney api --workers N (JITNEY_GATEWAYS=N) runs N gateway processes that share one port."
    parser = argparse.ArgumentParser(prog="jitney api", description="Serve the HTTP API.", epilog=epilog)
    parser.add_argument("--fd", type=int, help="listening socket to use instead of JITNEY_HOST and JITNEY_PORT")
    parser.add_argument("--up-fd", type=int, help="file descriptor that receives a line once requests are served")
    parser.add_argument("--counters-fd", type=int, help="file for the counters of all processes that share the port")
    parser.add_argument("--counters-slot", type=int, default=0, help="this process's place in that file")
    parser.add_argument("--counters-slots", type=int, default=1, help="number of these processes")
    args = parser.parse_args(argv)
    try:
        settings, store_settings, bulk = GatewaySettings(), StoreSettings(), BulkSettings()
    except ValidationError as error:
        sys.stderr.write(f"jitney api: {format_validation_error(error)}\n")
        return EX_CONFIG
    logs.set_up("gateway", settings.log_level, settings.log_format)
    heap_trim.keep_freed_memory()
    # Invalid requests get an error response. They are not logged.
    logging.getLogger("uvicorn").setLevel(max(logging.ERROR, logging.root.level))
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        listening = socket.socket(fileno=args.fd) if args.fd is not None else _listen(settings)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        reason = getattr(error, "strerror", None) or error
        place = f"JITNEY_HOST={settings.host} JITNEY_PORT={settings.port}"
        sys.stderr.write(f"jitney api: cannot listen on {place}: {reason}\n")
        return EX_CONFIG
    on_loopback = ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback
    store = JobStore(store_settings, RedisClient.of(store_settings))
    settings = settings.model_copy(update={"max_connections": _limit_connections(settings.max_connections)})
    counters = ProcessCounters(args.counters_fd, args.counters_slot, args.counters_slots)
    gateway = Gateway(settings, store, bulk, on_loopback=on_loopback, process_counters=counters)
    limits = ConnectionLimits(
        head_bytes=settings.max_header_bytes,
        header_timeout_s=settings.header_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        send_timeout_s=settings.send_timeout_s,
        connections=settings.max_connections,
        upload_bytes_s=bulk.bulk_upload_rate,
        keepalive_timeout_s=settings.keepalive_timeout_s,
        buffers_bytes=settings.max_buffers_bytes,
    )
    app, observer = create_app(gateway), RequestObserver(counters, writes_log=settings.access_log)
    config = uvicorn.Config(
        app if gateway.tracer is None else TracedApp(app, gateway.tracer),
        http=protocol_with_limits(limits, observer, gateway.cors),
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
        proxy_headers=False,  # nothing depends on the client's address
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        if unusable_reason := runner.run(store.connection.unusable_reason()):
            sys.stderr.write(f"jitney api: {unusable_reason}\n")
            return EX_CONFIG
        try:
            runner.run(check_shards_at_start(store.connection, store_settings.shards))
        except QueueMismatch as error:
            sys.stderr.write(f"jitney api: {error}\n")
            return EX_CONFIG
        grpc_server = None
        if settings.grpc_port:
            try:
                grpc_server = runner.run(_open_grpc(gateway, listening, shares_port=args.fd is not None))
            except CannotServeGrpc as error:
                sys.stderr.write(f"jitney api: {error}\n")
                return EX_CONFIG
        log.info("gateway %s listens on %s port %d", gateway.id, *listening.getsockname()[:2])
        server = GatewayServer(config, gateway, limits, args.up_fd, grpc_server)
        runner.run(server.serve(sockets=[listening]))
    return gateway.exit_code


async def _open_grpc(gateway: Gateway, listening: socket.socket, *, shares_port: bool) -> "GrpcServer":
    """Open the port of gRPC on the address of HTTP. Raises CannotServeGrpc."""
    try:
        server = importlib.import_module("api.grpc_server.server")
    except ModuleNotFoundError as error:
        port = gateway.settings.grpc_port
        message = f"JITNEY_GRPC_PORT={port} needs the extra grpc ({error.name} is missing): pip install 'jitney[grpc]'"
        raise CannotServeGrpc(message) from error
    try:
        grpc_server: GrpcServer = server.GrpcServer(gateway, listening.getsockname()[0], shares_port=shares_port)
    except OSError as error:
        raise CannotServeGrpc(str(error)) from error
    return grpc_server


def _limit_connections(max_connections: int) -> int:
    """Raise the limit on open files if needed, and return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + RESERVED_FILES
    files = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if files < needed:
        message = "JITNEY_MAX_CONNECTIONS=%d needs %d open files, but this process may open %d: it accepts fewer"
        log.warning(message, max_connections, needed, files)
    return max(1, files - RESERVED_FILES)


def _listen(settings: GatewaySettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    dual_stack = settings.host == "::" and socket.has_dualstack_ipv6()
    address = (settings.host, settings.port)
    listening = socket.create_server(address, family=family, backlog=2048, dualstack_ipv6=dual_stack)
    listening.set_inheritable(False)
    return listening


if __name__ == "__main__":
    sys.exit(main())
