"""SqueezeNet over 2,000 JPEGs: the limit, `jitney bulk run --local` and `jitney bulk run`, in turn.

The limit is that of docs/explanation/performance.md's S7, CPUs / (CPUs / raw + decode): the network alone in a loop
with every core, and decoding alone on one. All three in each round, so that what else runs on the machine meets all of
them. Rates are those of a run without the start of its process and the loading of its model. CPU time an image, of all
processes together, says the same where others take the cores: what the limit would cost over what was used.
"""

import argparse
import itertools
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from batching.collation import stack_items
from cli.bench.load.connection import Address
from cli.bench.load.service_cpu import ServiceCpu
from cli.bulk.results.results_journal import RunState, read_state
from model_runtime.cpus import usable_cpus
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.service import ROOT, Service

SHARED = ROOT.parent / "shared" / "data"
DISTINCT = 200
BATCH = 8
NAMES = ("--local / limit", "bulk run / --local", "CPU: limit / --local", "CPU: --local / bulk run")


class ImageCost(NamedTuple):
    """The cost of an image, in seconds."""

    wall_s: float
    cpu_s: float


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    args = parser.parse_args()
    ratios: dict[str, list[float]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toml = f"max_batch = {BATCH}"
        models.squeezenet(folder / "models", SHARED, "squeezenet1.1_fp32_dynbatch.derived.onnx", toml=toml)
        images = make_images(folder / "images", args.images)
        (found,) = list_models(folder / "models")
        assert isinstance(found, ModelFolder)
        model = load_model(found)
        with Service(folder / "models") as service:
            for number in range(1, args.rounds + 1):
                raw, decode = measure_network(model, images), measure_decoding(model, images)
                limit = usable_cpus() / (usable_cpus() * raw.wall_s + decode.wall_s)
                limit_cpu_s = raw.cpu_s + decode.cpu_s
                local = bulk_run(images, folder / f"l{number}.jsonl", "--local", str(found.path))
                cpu = ServiceCpu(Address.of(service.url))
                cpu.settle()
                before = cpu.read()
                through = bulk_run(images, folder / f"s{number}.jsonl", "--url", service.url)
                spent = cpu.since(before)
                assert spent is not None
                through = through._replace(cpu_s=through.cpu_s + sum(spent.seconds.values()) / len(images))
                by_wall = (1 / local.wall_s / limit, local.wall_s / through.wall_s)
                by_cpu = (limit_cpu_s / local.cpu_s, local.cpu_s / through.cpu_s)
                for found_ratio, ratio in zip(ratios.values(), (*by_wall, *by_cpu), strict=True):
                    found_ratio.append(ratio)
                print(
                    f"round {number}: raw {1 / raw.wall_s:.0f}/s, decode {decode.wall_s * 1000:.2f} ms, limit "
                    f"{limit:.0f}/s; --local {1 / local.wall_s:.0f}/s: {by_wall[0]:.2f}; bulk run "
                    f"{1 / through.wall_s:.0f}/s: {by_wall[1]:.2f}; CPU ms an image: limit {limit_cpu_s * 1000:.1f}, "
                    f"--local {local.cpu_s * 1000:.1f}, bulk run {through.cpu_s * 1000:.1f}; "
                    f"load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    for what, of_rounds in ratios.items():
        median = statistics.median(of_rounds)
        print(f"{what}: {median:.2f} ({min(of_rounds):.2f} to {max(of_rounds):.2f}, {len(of_rounds)} rounds)")
    return 0


def make_images(folder: Path, count: int) -> list[Path]:
    """Crops of photographs as JPEGs of 640 x 480; each file under several names."""
    folder.mkdir()
    rng = random.Random(0)
    photos = [Image.open(path).convert("RGB").resize((960, 720)) for path in sorted((SHARED / "photos").iterdir())]
    named: list[Path] = []
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if number < DISTINCT:
            x, y = rng.randrange(320), rng.randrange(240)
            rng.choice(photos).crop((x, y, x + 640, y + 480)).save(path, quality=88)
        else:
            path.hardlink_to(named[number % DISTINCT])
        named.append(path)
    return named


def measure_network(model: Model, images: list[Path]) -> ImageCost:
    """Measure the network alone, an image of a full batch."""
    prepared = [model.preprocess("image", path.read_bytes(), {}) for path in images[:BATCH]]
    return cost(partial(model.run, stack_items(prepared)), 5, BATCH)


def measure_decoding(model: Model, images: list[Path]) -> ImageCost:
    """Measure decoding and resizing alone, in one thread."""
    bodies = itertools.cycle([path.read_bytes() for path in images[:DISTINCT]])
    return cost(lambda: model.preprocess("image", next(bodies), {}), 2, 1)


def cost(act: Callable[[], object], seconds: float, images: int) -> ImageCost:
    """Return the cost of an image from an act over many."""
    act()
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while (passed := time.perf_counter() - began) < seconds:
        act()
        count += images
    return ImageCost(passed / count, (time.process_time() - cpu) / count)


def bulk_run(images: list[Path], output: Path, *where: str) -> ImageCost:
    """Run all images; CPU time is that of the command minus that of a run with one image."""
    state, cpu_s = _run(str(images[0].parent), output, *where)
    _, start_s = _run(str(images[0]), output.with_suffix(".one.jsonl"), *where)
    assert (state.lines, state.failed) == (len(images), {})
    return ImageCost(state.seconds / state.lines, (cpu_s - start_s) / state.lines)


def _run(given: str, output: Path, *where: str) -> tuple[RunState, float]:
    command = [sys.executable, "-m", "cli.main", "bulk", "run", given, "-o", str(output), "--quiet", *where]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    state = read_state(output)
    assert state is not None
    return state, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
