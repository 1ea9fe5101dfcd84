"""Read and write `profile.json` beside a model's file: one measured profile per provider and device.

`jitney models profile` writes it and workers read it. Profiles of another version of the model's file are ignored.
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
    """Latency of one batch size: median and 99th percentile in ms, CPU time per row in µs, and the number of runs."""

    p50_ms: float
    p99_ms: float
    cpu_us_per_row: float
    runs: int


class StoredProfile(NamedTuple):
    """One profile. `cap`: the batch cap chosen from `sizes`. `measured_at`: RFC 3339."""

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
    """Return the profiles of this ONNX file; empty if there are none. Raises ModelError for an invalid file."""
    path = onnx.parent / PROFILE_FILE
    if not path.is_symlink() and not path.exists():
        return []
    if check_file(onnx.parent, path).st_size > MAX_BYTES:
        raise ModelError(path, None, f"is larger than {MAX_BYTES} bytes; allowed: what `jitney models profile` writes")
    try:
        document = json.loads(path.read_text("utf-8"))
        profiles = [_profile(fields) for fields in document["profiles"]]
        return profiles if document["model"] == model_digest(onnx) else []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"cannot be parsed ({type(error).__name__}: {error})"
        raise ModelError(path, None, f"{reason}; allowed: what `jitney models profile` writes") from error


def find_profile(profiles: list[StoredProfile], provider: str, device: str, runtime: str) -> StoredProfile | None:
    """Return the profile of this provider, device and runtime version, or None."""
    measured_on = (provider, device, runtime)
    return next(
        (stored for stored in profiles if (stored.provider, stored.device, stored.runtime) == measured_on), None
    )


def write_profile(onnx: Path, profile: StoredProfile) -> Path:
    """Replace the profile of its provider and device atomically, and keep the others. Raises OSError."""
    try:
        stored = read_profiles(onnx)
    except ModelError:
        stored = []
    others = [other for other in stored if (other.provider, other.device) != (profile.provider, profile.device)]
    text = json.dumps(
        {"model": model_digest(onnx), "profiles": [each.as_json() for each in [*others, profile]]}, indent=1
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
    """Return the SHA-256 of the ONNX file alone, as the values in external data do not change latency."""
    with onnx.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _profile(fields: Mapping[str, Any]) -> StoredProfile:
    sizes = {int(size): _latency(latency) for size, latency in fields["sizes"].items()}
    provider, device, runtime, measured_at = (
        str(fields[key]) for key in ("provider", "device", "runtime", "measured_at")
    )
    cap = int(fields["cap"])
    if not 1 <= cap <= 4096 or not sizes:
        raise ValueError(f"cap {cap}, {len(sizes)} sizes")
    return StoredProfile(provider, device, runtime, measured_at, cap, sizes)


def _latency(fields: Mapping[str, Any]) -> Latency:
    p50_ms, p99_ms, cpu_us_per_row = (float(fields[key]) for key in ("p50_ms", "p99_ms", "cpu_us_per_row"))
    return Latency(p50_ms, p99_ms, cpu_us_per_row, int(fields["runs"]))
