"""Reads environment variables: the `JITNEY_` prefix, the two bare names, and the refusal of unknown names.

`PORT` and `REDIS_URL` are also read without the prefix, because platforms set them. Variables that Kubernetes injects
for a service named `jitney…` are ignored.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

PREFIX: Final = "JITNEY_"
ALSO_BARE: Final = frozenset({"PORT", "REDIS_URL"})
_OF_KUBERNETES: Final = re.compile(
    r"JITNEY_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT_OF_KUBERNETES: Final = re.compile(r"JITNEY_(.+_)?PORT")
# Read by the command line alone, or set by one process for its children.
OF_THE_COMMAND_LINE: Final = frozenset(
    {
        *("JITNEY_URL", "JITNEY_API_KEY", "JITNEY_DATA_DIR", "JITNEY_WORKERS", "JITNEY_GATEWAYS"),
        *("JITNEY_GPU_DEVICES", "JITNEY_RESTART_LIMIT_S", "JITNEY_STARTED_AT"),
    }
)


def read(env: Mapping[str, str], name: str) -> str:
    """Return the value of `JITNEY_<name>`; "" if it is unset or empty.

    `PORT` and `REDIS_URL` are read without the prefix where `JITNEY_<name>` is unset.
    """
    full_name = PREFIX + name
    value = env.get(full_name, "")
    if value and not is_of_kubernetes(full_name, value):
        return value
    return env.get(name, "") if name in ALSO_BARE else ""


def is_of_kubernetes(name: str, value: str) -> bool:
    """Report whether Kubernetes injects such a variable for a service whose name begins with `jitney`."""
    return bool(_OF_KUBERNETES.fullmatch(name) or (_PORT_OF_KUBERNETES.fullmatch(name) and "://" in value))


def unknown(env: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return a sentence for each `JITNEY_…` variable that no process reads, with the nearest known name.

    Args:
        env: the environment.
        known: full names of all settings, such as `JITNEY_LEASE_S`.

    """
    names = {*known, *OF_THE_COMMAND_LINE}
    return [_refusal(name, names) for name in sorted(env) if _is_unknown(name, env[name], names)]


def _is_unknown(name: str, value: str, names: Collection[str]) -> bool:
    return name.startswith(PREFIX) and name not in names and not is_of_kubernetes(name, value)


def _refusal(name: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    advice = f"the nearest is {nearest[0]}" if nearest else "docs/reference/settings.md lists all"
    return f"{name} is no setting; {advice}"
