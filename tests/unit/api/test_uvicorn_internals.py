"""uvicorn's internals that api/asgi and api/__main__ subclass: a release without them is refused by name."""

import asyncio
import inspect
import logging
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tests.support.processes import ROOT

USED = {
    "Server": "config server_state started should_exit _captured_signals handle_exit main_loop on_tick startup "
    "shutdown serve",
    "ServerState": "connections tasks default_headers total_requests",
    "HttpToolsProtocol": "app app_state asgi_version root_path loop parser transport flow server client scheme headers "
    "cycle connections tasks server_state expect_100_continue connection_made connection_lost data_received "
    "on_message_begin on_url on_header on_headers_complete on_body on_message_complete on_response_complete "
    "pause_writing resume_writing send_400_response",
    "RequestResponseCycle": "scope transport flow logger access_log default_headers message_event on_response body "
    "more_body keep_alive disconnected waiting_for_100_continue response_started response_complete chunked_encoding "
    "expected_content_length run_asgi receive send send_500_response",
    "FlowControl": "read_paused write_paused pause_reading resume_reading pause_writing resume_writing drain",
}
CYCLE_ARGUMENTS: dict[str, Any] = {
    "scope": {"type": "http", "method": "GET"},
    "transport": None,
    "flow": None,
    "logger": logging.getLogger(),
    "access_logger": logging.getLogger(),
    "access_log": False,
    "default_headers": [],
    "message_event": None,
    "expect_100_continue": False,
    "keep_alive": True,
    "on_response": lambda: None,
}


async def _app(scope: Any, receive: Any, send: Any) -> None: ...


def _incompatibility(created: Mapping[str, object]) -> str:
    """Return what is wrong with the installed release, or nothing."""
    missing = [f"{name}.{used}" for name in USED for used in USED[name].split() if not hasattr(created[name], used)]
    arguments = inspect.signature(RequestResponseCycle.__init__).parameters
    missing += [f"RequestResponseCycle({name}=)" for name in CYCLE_ARGUMENTS.keys() - arguments.keys()]
    if not missing:
        return ""
    internals = "; ".join(f"{name}: {used}" for name, used in USED.items())
    lacks = f"uvicorn {uvicorn.__version__} is not known to work; it lacks {', '.join(missing)}"
    return f"{lacks}; internals used: {internals}"


def _create() -> dict[str, object]:
    """Create one object of each class, as most attributes are set by the constructors."""

    async def create() -> dict[str, object]:
        config = uvicorn.Config(_app, ws="none", log_config=None)
        server = uvicorn.Server(config)
        return {
            "Server": server,
            "ServerState": server.server_state,
            "HttpToolsProtocol": HttpToolsProtocol(config, server.server_state, {}),
            "RequestResponseCycle": RequestResponseCycle(**CYCLE_ARGUMENTS),
            "FlowControl": FlowControl(asyncio.Transport()),
        }

    return asyncio.run(create())


def test_the_installed_release_has_the_internals_that_are_used() -> None:
    problem = _incompatibility(_create())
    assert not problem, problem
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert HIGH_WATER_LIMIT > 0


def test_a_release_without_one_of_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "on_url")
    problem = _incompatibility(_create())
    assert f"uvicorn {uvicorn.__version__} is not known to work; it lacks HttpToolsProtocol.on_url;" in problem


def test_the_next_minor_release_is_not_installed_unseen() -> None:
    """Raise the limit only after this file and the tests of tests/integration/api/http pass with the new release."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (limit,) = re.findall(r"uvicorn\[standard\]>=[\d.]+,<(\d+)\.(\d+)$", "\n".join(dependencies), re.MULTILINE)
    installed = tuple(int(part) for part in uvicorn.__version__.split(".")[:2])
    assert installed < tuple(map(int, limit)), f"uvicorn {uvicorn.__version__} is not known to work"
