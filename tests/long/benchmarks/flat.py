"""The resident memory of a model after warm-up, through batches of random sizes.

Each model runs in a process of its own, loaded and run as a worker does: folded, padded where its runtime has buckets,
unfolded. Exit code 1: some model grew by more than 5 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from batching.collation import split_outputs, stack_items
from model_runtime.model import Model, load_model
from model_runtime.profiling import synthetic_inputs
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.cluster.parts import resident_mib

MOST_GROWTH: Final = 1.05
SAMPLE_EVERY: Final = 50
ROOT: Final = Path(__file__).parents[3]
SHARED_DATA: Final = ROOT.parent / "shared" / "data"


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="(one model, in this process)")
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(measure(args.folder, args.batches)))
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        for folder in make_models(Path(name)):
            found = measure_in_subprocess(folder, args.batches)
            worst = max(worst, found["growth"])
            print(folder.name, json.dumps(found), flush=True)
    return int(worst > MOST_GROWTH)


def make_models(where: Path) -> list[Path]:
    """A tiny network and, where shared data exists, a real one, each with and without buckets; and digits."""
    models.perceptron(where, "tiny")
    models.perceptron(where, "tiny-padded")
    _add(where / "tiny-padded", "buckets = [1, 4, 16, 64]")
    if SHARED_DATA.is_dir():
        for name, toml in (
            ("squeezenet", "max_batch = 8"),
            ("squeezenet-padded", "max_batch = 8\nbuckets = [1, 4, 8]"),
        ):
            models.squeezenet(where, SHARED_DATA, "squeezenet1.1_fp32_dynbatch.derived.onnx", name, toml)
    return [where / name for name in sorted(one.name for one in where.iterdir())] + [ROOT / "models" / "digits"]


def measure_in_subprocess(folder: Path, batches: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "tests.long.benchmarks.flat", "--folder", str(folder), "--batches", str(batches)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(folder: Path, batches: int) -> dict[str, float]:
    """Resident MiB after warm-up, the later maximum and the last, over batches of 1 to the cap."""
    (found,) = list_models(folder.parent, [folder.name])
    assert isinstance(found, ModelFolder)
    model = load_model(found)
    random = np.random.default_rng(1)
    rows = synthetic_inputs.make_rows(model.inputs, model.max_batch, 1, lambda _: None).rows
    for size in range(1, model.max_batch + 1):
        _run(model, rows[:size])
    warm = most = last = resident_mib(os.getpid())
    began, items = time.perf_counter(), 0
    for number in range(batches):
        size = int(random.integers(1, model.max_batch + 1))
        _run(model, rows[:size])
        items += size
        if number % SAMPLE_EVERY == 0:
            last = resident_mib(os.getpid())
            most = max(most, last)
    last = resident_mib(os.getpid())
    most = max(most, last)
    return {
        "batches": batches,
        "items": items,
        "cap": model.max_batch,
        "warm_mib": round(warm, 1),
        "most_mib": round(most, 1),
        "last_mib": round(last, 1),
        "growth": round(most / warm, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _run(model: Model, items: list[synthetic_inputs.Row]) -> None:
    padded_size = model.padded_size(len(items))
    assert len(split_outputs(model.run(stack_items(items, padded_size)), len(items), padded_size)) == len(items)


def _add(folder: Path, toml: str) -> None:
    path = folder / "model.toml"
    path.write_text(f"{toml}\n{path.read_text()}")


if __name__ == "__main__":
    sys.exit(main())
