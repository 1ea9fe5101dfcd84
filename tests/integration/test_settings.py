"""A setting with a bad value is one line with the variable, its value and the allowed ones; no traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from api.settings import GatewaySettings
from background.settings import BackgroundSettings
from jobs.bulk.settings import BulkSettings
from jobs.config.settings_base import format_validation_error
from jobs.store.settings import StoreSettings
from tests.support.processes import ROOT
from worker.settings import WorkerSettings

ALL: list[type[BaseSettings]] = [StoreSettings, GatewaySettings, WorkerSettings, BackgroundSettings, BulkSettings]
NONSENSE = ["nonsense", "-1", "nan", "inf", "1e400", "1e18", "9" * 40, "9" * 5000, "[", "\udcff", "٣", "two\nlines"]


def numbers() -> Iterator[tuple[type[BaseSettings], str]]:
    for settings in ALL:
        for name, field in settings.model_fields.items():
            if field.annotation in (int, float):
                yield settings, f"JITNEY_{name.upper()}"


@pytest.mark.parametrize(("settings", "name"), [*numbers()])
def test_only_valid_numbers_are_accepted(
    settings: type[BaseSettings], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite or huge number used to pass the check, and failed later with a traceback or Redis errors."""
    for text in NONSENSE:
        monkeypatch.setenv(name, text)
        with pytest.raises(ValidationError) as refused:
            settings()
        said = format_validation_error(refused.value)
        assert said.startswith(f"{name}={' '.join(text.split())[:100]}"), text
        assert ("\n" in said, len(said) < 600) == (False, True)


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("JITNEY_WEBHOOK_SCHEDULE", "0,soon", "must be seconds, from 0 to 1000000000, with commas between"),
        ("JITNEY_WEBHOOK_SCHEDULE", "1e18", "must be seconds, from 0 to 1000000000, with commas between"),
        ("JITNEY_PUBLIC_URL", "jitney.example", "must begin as https://jitney.example"),
        ("JITNEY_WEBHOOK_ALLOW_CIDRS", "10.0.0.0/33", "does not appear to be an IPv4 or IPv6 network"),
        ("JITNEY_WEBHOOK_SCHEMES", "ftp", "must be https, or https,http"),
        ("JITNEY_BULK_STORE", str(ROOT / "README.md"), "is a file; must be a folder, or s3://bucket/prefix"),
        ("JITNEY_BULK_STORE", "s3:/x", None),
        (
            "JITNEY_CORS_ORIGINS",
            "https://app.example/",
            "'https://app.example/' is not an origin: write `*`",
        ),
        ("JITNEY_CORS_ORIGINS", "*,http://localhost:3000", None),
        ("JITNEY_ALLOW_ANONYMOUS", "everybody", "'loopback', 'anyone' or 'nobody'"),
        ("JITNEY_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        (
            "JITNEY_CPUS",
            "x",
            "must be a number of CPUs from 1 to 1024, or a list of their numbers such as 8-15 or 0,2-3",
        ),
    ],
)
def test_invalid_words_are_refused_with_what_is_allowed(
    name: str, text: str, allowed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    settings = next(one for one in reversed(ALL) if name.removeprefix("JITNEY_").lower() in one.model_fields)
    if allowed is None:
        settings()
        return
    with pytest.raises(ValidationError) as refused:
        settings()
    said = format_validation_error(refused.value)
    assert said.startswith(f"{name}={text}: ")
    assert allowed in said
    assert "\n" not in said


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_RQ_REDIS_URL", "http://user:secret@host/0")
    with pytest.raises(ValidationError) as refused:
        BackgroundSettings()
    assert "secret" not in format_validation_error(refused.value)


@pytest.mark.parametrize(
    ("verb", "name", "text", "last"),
    [
        ("api", "JITNEY_LEASE_S", "inf", "jitney api: JITNEY_LEASE_S=inf: must be at most 1000000000"),
        ("api", "JITNEY_HOST", "no such host", "jitney api: cannot listen on JITNEY_HOST=no such host JITNEY_PORT=0: "),
        (
            "api",
            "JITNEY_LAME_DUCK_S",
            "x",
            "jitney: JITNEY_LAME_DUCK_S=x is not a time in seconds: use 0 to 3600",
        ),
        (
            "background",
            "JITNEY_WEBHOOK_CONCURRENCY",
            "0",
            "jitney background: JITNEY_WEBHOOK_CONCURRENCY=0: Input should be greater than or equal to 1",
        ),
        ("up", "JITNEY_STARTED_AT", "x", "jitney: JITNEY_STARTED_AT=x is not a time in seconds since 1970"),
        (
            "up",
            "JITNEY_WORKERS",
            "many",
            "jitney: JITNEY_WORKERS=many is not a number of worker processes: use 1 to 256",
        ),
        ("up", "JITNEY_DATA_DIR", "README.md", "jitney: the data folder README.md cannot be used: "),
        (
            "worker",
            "JITNEY_RESTART_LIMIT_S",
            "1e300",
            "jitney: JITNEY_RESTART_LIMIT_S=1e300 is not a time in seconds: ",
        ),
    ],
)
def test_a_verb_ends_with_one_line_and_exit_code_78(verb: str, name: str, text: str, last: str) -> None:
    command = [sys.executable, "-m", "cli.main", *verb.split()]
    env = {**os.environ, "JITNEY_PORT": "0", "JITNEY_REDIS_URL": "", name: text}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (78, 1, "")
    assert done.stderr.startswith(last)


def test_the_invalid_part_of_a_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_TENANTS", '{"a": {"weight": 0}}')
    with pytest.raises(ValidationError) as refused:
        StoreSettings()
    assert (
        format_validation_error(refused.value)
        == "JITNEY_TENANTS=… a.weight=0: Input should be greater than or equal to 1"
    )
