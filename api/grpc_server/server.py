"""The gRPC server of a gateway process: its port, its limits, and its shutdown."""

import logging
from typing import Any, Final

import grpc
from grpc.aio import Server

from api.gateway.gateway import Gateway
from api.grpc_server import service, standard_services
from api.grpc_server.calls import Access, Calls
from api.grpc_server.stream_infer import StreamInfer
from api.settings import GatewaySettings

log = logging.getLogger("jitney.api")

KEEPALIVE_S: Final = 60  # without traffic, after which a connection is asked whether it lives
KEEPALIVE_TIMEOUT_S: Final = 20
MIN_PING_INTERVAL_S: Final = 10  # of callers; those that ask more often are disconnected
MAX_CALLS_PER_CONNECTION: Final = 1000  # in progress
STREAM_INFER: Final = f"{service.PATH}ModelStreamInfer"


class GrpcServer:
    """Serves gRPC beside HTTP. Create it in the event loop that runs it."""

    def __init__(self, gateway: Gateway, host: str, *, shares_port: bool) -> None:
        """Open JITNEY_GRPC_PORT on `host`, an address. Raises OSError, whose message is for the operator.

        `shares_port`: other gateway processes listen on it too, and the system spreads connections over them.
        """
        self._calls, port = Calls(gateway), gateway.settings.grpc_port
        self._streams = StreamInfer(self._calls)
        self._handlers: dict[str, Any] = {
            **service.handlers(self._calls),
            **standard_services.handlers(self._calls),
            STREAM_INFER: self._calls.stream(STREAM_INFER, Access.KEY, self._streams.serve),
        }
        # Handlers that are registered by name would cost more at each call of any of them.
        self._server: Server = grpc.aio.server(
            handlers=[self],
            options=_options(gateway.settings, shares_port=shares_port),
            maximum_concurrent_rpcs=gateway.settings.max_connections,
        )
        try:
            self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            message = f"cannot listen on {host} JITNEY_GRPC_PORT={port}: is the port in use, or not permitted?"
            raise OSError(message) from error
        log.info("gateway %s serves gRPC on %s port %d", gateway.id, host, port)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a method, or None for UNIMPLEMENTED; gRPC calls this as a GenericRpcHandler."""
        return self._handlers.get(handler_call_details.method)

    async def start(self) -> None:
        """Accept calls. The gateway has been started."""
        await self._server.start()
        self._calls.gateway.supervisor.start(self._calls.sweep())

    async def stop(self, within_s: float) -> None:
        """Accept no more calls, wait for those in progress, and end the others after `within_s` seconds."""
        self._calls.is_ending = True
        self._streams.end()
        await self._server.stop(within_s)


def _options(settings: GatewaySettings, *, shares_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(shares_port)),
        # The length of a message that is larger is read, and no more of it.
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),  # outputs have limits of their own
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", int(settings.header_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", int(settings.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
