"""Profiles kept beside a model's file: one for each provider and device that has measured it, in `profile.json`.

Written by `jitney models profile` alone; a worker only reads it. One that was measured of another file counts for
nothing.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from model_runtime.repository.path_checks import check_file
from model_runtime.spec.model_toml import ModelError

PROFILE_FILE: Final = "profile.json"
MAX_BYTES: Final = 1 << 20


class Latency(NamedTuple):
    """Runs of one batch size: the median and the 99th percentile in ms, and what they cost by the row, in CPU-µs."""

    p50_ms: float
    p99_ms: float
    cpu_us_per_row: float
    runs: int


class StoredProfile(NamedTuple):
    """`cap`: what follows from the sizes. `measured_at`: RFC 3339."""

    provider: str
    device: str
    runtime: str
    measured_at: str
    cap: int
    sizes: Mapping[int, Latency]

    def as_json(self) -> dict[str, Any]:
        sizes = {str(size): latency._asdict() for size, latency in self.sizes.items()}
        return {**self._asdict(), "sizes": sizes}


def read_profiles(onnx: Path) -> list[StoredProfile]:
    """Those of this very file; empty where there are none. Raises ModelError where the file is not to be read."""
    path = onnx.parent / PROFILE_FILE
    if not path.is_symlink() and not path.exists():
        return []
    if check_file(onnx.parent, path).st_size > MAX_BYTES:
        raise ModelError(path, None, f"is larger than {MAX_BYTES} bytes: `jitney models profile` did not write it")
    try:
        written = json.loads(path.read_text("utf-8"))
        profiles = [_profile(one) for one in written["profiles"]]
        return profiles if written["model"] == model_digest(onnx) else []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"can not be understood ({type(error).__name__}: {error})"
        raise ModelError(path, None, f"{reason}; allowed: what `jitney models profile` writes") from error


def find_profile(profiles: list[StoredProfile], provider: str, device: str, runtime: str) -> StoredProfile | None:
    """The one of this device; another runtime's counts for nothing."""
    return next(
        (one for one in profiles if (one.provider, one.device, one.runtime) == (provider, device, runtime)), None
    )


def write_profile(onnx: Path, profile: StoredProfile) -> Path:
    """Write it beside those of other devices, whole or not at all; raises OSError."""
    try:
        known = read_profiles(onnx)
    except ModelError:
        known = []
    others = [one for one in known if (one.provider, one.device) != (profile.provider, profile.device)]
    text = json.dumps(
        {"model": model_digest(onnx), "profiles": [one.as_json() for one in [*others, profile]]}, indent=1
    )
    path = onnx.parent / PROFILE_FILE
    number, name = tempfile.mkstemp(prefix=".profile-", dir=onnx.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def model_digest(onnx: Path) -> str:
    """Of the file itself: weights in other files change no latency."""
    with onnx.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _profile(written: Mapping[str, Any]) -> StoredProfile:
    sizes = {int(size): _latency(one) for size, one in written["sizes"].items()}
    provider, device, runtime, measured_at = (
        str(written[key]) for key in ("provider", "device", "runtime", "measured_at")
    )
    cap = int(written["cap"])
    if not 1 <= cap <= 4096 or not sizes:
        message = f"a cap of {cap}, {len(sizes)} sizes"
        raise ValueError(message)
    return StoredProfile(provider, device, runtime, measured_at, cap, sizes)


def _latency(written: Mapping[str, Any]) -> Latency:
    p50_ms, p99_ms, cpu_us_per_row = (float(written[key]) for key in ("p50_ms", "p99_ms", "cpu_us_per_row"))
    return Latency(p50_ms, p99_ms, cpu_us_per_row, int(written["runs"]))
