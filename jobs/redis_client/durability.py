"""Checks from HELLO and INFO whether Redis keeps data: append-only file, no eviction, primary role, version.

Runs on every new connection and uses INFO alone, because managed services often refuse CONFIG.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

MIN_REDIS_VERSION: Final = (7, 0)
CHECKS: Final = {
    "persistence": "whether the server writes an append-only file",
    "eviction": "whether the server deletes keys when its memory is full",
    "role": "whether the server is a primary",
    "version": "whether the server is Redis 7.0 or newer, or Valkey",
}


class Hazard(NamedTuple):
    """One reason why accepted jobs may be lost. `check` is a key of CHECKS; `reason` is a sentence for operators."""

    check: str
    reason: str


class ServerSafety(NamedTuple):
    """Result of the checks. `unknown`: checks that the server's replies do not answer."""

    hazards: tuple[Hazard, ...] = ()
    unknown: tuple[str, ...] = ()
    node: str = ""  # run_id, unique to one server process; empty: unknown
    name: str = ""  # engine and version
    is_loading: bool = False
    is_replica: bool = False
    is_read_only: bool = False  # a replica that refuses writes

    @property
    def is_durable(self) -> bool:
        """Return True if every check was answered and passed."""
        return not self.hazards and not self.unknown

    @property
    def warnings(self) -> list[str]:
        """List hazards and unanswered checks as sentences."""
        return [hazard.reason for hazard in self.hazards] + [f"cannot tell {CHECKS[check]}" for check in self.unknown]


def assess_server(hello: Any, info: Any) -> ServerSafety:
    """Assess the server by its replies to HELLO and INFO; either may be an error reply."""
    facts = _parse_info_reply(info)
    greeting = {_text(name): _text(value) for name, value in hello.items()} if isinstance(hello, dict) else {}
    role = facts.get("role") or greeting.get("role", "")
    version = facts.get("redis_version") or greeting.get("version", "")
    is_replica = role in ("slave", "replica")
    answers = {
        "persistence": facts.get("aof_enabled", ""),
        "eviction": facts.get("maxmemory_policy", ""),
        "role": role,
        "version": version,
    }
    reasons = {
        "persistence": _check_persistence(answers["persistence"]),
        "eviction": _check_eviction(answers["eviction"]),
        "role": "it is a replica: writes are refused or lost; use the address of its primary" if is_replica else "",
        "version": _check_version(version),
    }
    engine = "valkey" if "valkey_version" in facts else greeting.get("server", "redis")
    return ServerSafety(
        hazards=tuple(Hazard(check, reason) for check, reason in reasons.items() if reason),
        unknown=tuple(check for check, answer in answers.items() if not answer),
        node=facts.get("run_id", ""),
        name=f"{engine} {facts.get('valkey_version') or version}".strip(),
        is_loading=facts.get("loading") == "1",
        is_replica=is_replica,
        is_read_only=is_replica and facts.get("slave_read_only", "1") != "0",
    )


def _check_persistence(aof_enabled: str) -> str:
    if aof_enabled in ("", "1"):
        return ""
    return "appendonly is not yes: accepted jobs are lost when its process ends"


def _check_eviction(policy: str) -> str:
    if policy in ("", "noeviction"):
        return ""
    return f"maxmemory-policy is {policy}, not noeviction: it deletes jobs and results when its memory is full"


def _check_version(version: str) -> str:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not numbers or numbers >= MIN_REDIS_VERSION:
        return ""
    return f"its version is {version}: Redis 7.0 or newer, or Valkey, is needed"


def _parse_info_reply(info: Any) -> dict[str, str]:
    if not isinstance(info, bytes | str):
        return {}
    return parse_info(_text(info))


def parse_info(text: str) -> dict[str, str]:
    """Parse the lines of an INFO reply."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def describe_safety(safety: ServerSafety | None) -> Mapping[str, Any]:
    """Return the server's safety for /readyz. It contains no address, because /readyz needs no key."""
    if safety is None:
        return {"safe": None, "warnings": []}
    return {"safe": safety.is_durable, "warnings": safety.warnings}
