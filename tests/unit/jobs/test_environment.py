"""Environment variables: the prefix, the two bare names, unknown names, and what Kubernetes injects."""

import pytest
from pydantic import ValidationError

from api.settings import GatewaySettings
from jobs.config.compared_settings import ALL_SETTINGS
from jobs.config.environment import unknown
from jobs.config.settings_base import format_validation_error
from jobs.store.settings import StoreSettings


def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_LEASES_S", "5")
    with pytest.raises(ValidationError) as caught:
        StoreSettings()
    assert format_validation_error(caught.value) == "JITNEY_LEASES_S is no setting; the nearest is JITNEY_LEASE_S"


def test_a_variable_that_resembles_none_is_refused_too() -> None:
    assert unknown({"JITNEY_QQQQQQQQQQQQQQ": "1"}, ALL_SETTINGS) == [
        "JITNEY_QQQQQQQQQQQQQQ is no setting; docs/reference/settings.md lists all"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JITNEY_SERVICE_HOST", "10.0.0.1"),
        ("JITNEY_SERVICE_PORT", "8000"),
        ("JITNEY_SERVICE_PORT_HTTP", "8000"),
        ("JITNEY_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("JITNEY_PORT", "tcp://10.0.0.1:8000"),
        ("JITNEY_GATEWAY_PORT", "tcp://10.0.0.1:8000"),
        ("JITNEY_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("JITNEY_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("JITNEY_GATEWAY_PORT_8000_UDP_PROTO", "udp"),
    ],
)
def test_variables_that_kubernetes_injects_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert GatewaySettings().port == 8000


def test_a_port_is_read_with_and_without_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    assert GatewaySettings().port == 9000
    monkeypatch.setenv("JITNEY_PORT", "9001")
    assert GatewaySettings().port == 9001
    monkeypatch.setenv("JITNEY_PORT", "")
    assert GatewaySettings().port == 9000


def test_only_the_two_bare_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("LEASE_S", "7")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/0")
    assert GatewaySettings().host == "127.0.0.1"
    assert (StoreSettings().lease_s, StoreSettings().redis_url) == (20, "redis://elsewhere:6379/0")
