"""`jitney models profile`: measures the latency of each batch size and stores it next to the model for workers."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cli.models.model_paths import ModelPath
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.profiling import batch_cap
from model_runtime.profiling.batch_cap import MeasuredModel
from model_runtime.profiling.profile_store import StoredProfile, write_profile
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import attach_task
from model_runtime.tasks.examples import Row, read_own_examples


class ProfileResult(NamedTuple):
    """A measured profile. `stored_in`: the file it was written to, or None."""

    title: str
    profile: StoredProfile
    stored_in: Path | None

    def lines(self) -> list[str]:
        """Format the profile as a table."""
        stored = self.profile
        runtime = f"{stored.provider}, ONNX Runtime {stored.runtime}"
        head = f"{self.title} on {stored.device} ({runtime}): batches of at most {stored.cap}"
        lines = [head, f"  {'rows':>5} {'p50 ms':>10} {'p99 ms':>10} {'rows/s':>9} {'CPU-µs/row':>11} {'runs':>6}"]
        for size, (p50, p99, cpu, runs) in stored.sizes.items():
            lines.append(f"  {size:5} {p50:10.3f} {p99:10.3f} {size * 1000 / p50:9.0f} {cpu:11.1f} {runs:6}")
        return [*lines, f"  stored in {self.stored_in}" if self.stored_in else "  not stored"]

    def as_json(self) -> dict[str, Any]:
        return {"model": self.title, **self.profile.as_json(), "kept": str(self.stored_in) if self.stored_in else None}


def profile(place: ModelPath, provider: str, seconds: float, largest: int, *, store_profile: bool) -> ProfileResult:
    """Open a model as a worker does, measure it, and store the profile if requested. Raises ModelError."""
    spec = place.folder.spec if place.folder else None
    if spec and spec.engine is not None:
        raise ModelError(place.title, "engine", "cannot be profiled: only ONNX files can; allowed: max_batch")
    engine = place.open_engine(provider)
    examples: list[Row] = []
    if place.folder:
        task = attach_task(place.folder, engine)
        examples = read_own_examples(place.folder.path, task, engine.inputs)
    if not examples and not all(tensor.is_fixed for tensor in engine.inputs):
        shapes = ", ".join(f"{tensor.name!r} {list(tensor.shape)}" for tensor in engine.inputs)
        reason = f"cannot be measured: a row has open dimensions: {shapes}"
        raise ModelError(place.onnx, None, f"{reason}; allowed: examples/ in the model's folder")
    configured = [*(spec.buckets or ()), *([spec.max_batch] if spec.max_batch else [])] if spec else []
    sizes = batch_cap.sizes_up_to(max([largest, *configured]), configured) if engine.batchable else [1]
    try:
        latencies = batch_cap.measure_latencies(
            MeasuredModel(engine.inputs, engine.run, spent=time.process_time, examples=examples), sizes, seconds
        )
    except RunFailed as error:
        raise ModelError(place.onnx, None, f"cannot be measured: a batch of zeros does not run: {error}") from error
    cap = batch_cap.cap_from_latencies(latencies, by_cpu=engine.provider == "cpu")
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    measured = StoredProfile(engine.provider, engine.device, engine.runtime, now, cap, latencies)
    try:
        path = write_profile(place.onnx, measured) if store_profile and place.folder else None
    except OSError as error:
        reason = f"{error.strerror}; allowed: a writable folder, or --no-keep"
        raise ModelError(place.onnx.parent, None, f"cannot store the profile: {reason}") from error
    return ProfileResult(place.title, measured, path)
