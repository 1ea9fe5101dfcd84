"""The cost of an item over a long run, in windows; draws docs/explanation/bulk-run.png.

Digits through a whole service, by `jitney bulk run`. CPU time of every part is read once a second; a window is a
twenty-fifth of the run. Exit code 1: the cost grows by more than three standard errors, and by more than 5 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from cli.bench.load.service_cpu import parse_cpu_totals
from cli.bulk.results.results_journal import read_state
from tests.support import bulk
from tests.support.service import ROOT, Service

WINDOWS: Final = 25
PARTS: Final = {"gateway": "gateway", "worker": "worker", "redis": "Redis", "client": "bulk run"}


Windows = NDArray[np.float64]


class Sample(NamedTuple):
    """A sample: finished lines, and CPU seconds by part."""

    lines: int
    cpu_s: dict[str, float]


def main() -> int:
    """Measure and draw; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "explanation" / "bulk-run.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Service() as service:
        folder, began = Path(name), time.monotonic()
        bulk.digits_table(folder / "in.jsonl", args.items)
        seen = sample_run(service, folder)
        took_s = time.monotonic() - began
        memory = service.http.get("/metrics").text.partition("\njitney_server_memory_used_bytes ")[2].partition("\n")[0]
    at, costs = windows(seen, args.items)
    total = np.sum([*costs.values()], axis=0)
    slope, error = line(at, total)
    told = f"{args.items} items in {took_s:.0f} s, load {os.getloadavg()[0]:.1f}; CPU µs an item: {total.mean():.0f}"
    told += f" ({total.min():.0f} to {total.max():.0f} in {WINDOWS} windows)"
    grows = f"over the whole run {slope / total.mean():+.1%} ± {error / total.mean():.1%}"
    print(f"{told}; {grows}; the queue's memory at the end {float(memory) / 2**20:.0f} MiB")
    print(json.dumps({part: [round(value) for value in cost] for part, cost in costs.items()}))
    draw(args.plot, at, costs, f"{args.items:,} digits, {grows}")
    return int(slope > 3 * error and slope > 0.05 * total.mean())


def sample_run(service: Service, folder: Path) -> list[Sample]:
    """Run all, and sample once a second."""
    results = folder / "r.jsonl"
    seen: list[Sample] = []
    with bulk.running(folder / "in.jsonl", "-o", results, "--url", service.url, "--quiet") as process:
        while process.poll() is None:
            if (state := read_state(results)) is not None and (not seen or state.lines > seen[-1].lines):
                seen.append(Sample(state.lines, cpu(service, process.pid)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
    assert process.returncode == 0
    state = read_state(results)
    assert state is not None
    assert state.failed == {}
    return seen


def cpu(service: Service, pid: int) -> dict[str, float]:
    """CPU seconds so far, of the service's parts and of the client."""
    reading = parse_cpu_totals(service.http.get("/metrics").text)
    assert reading is not None
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {**reading.seconds, "client": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")}


def windows(seen: Sequence[Sample], items: int) -> tuple[Windows, dict[str, Windows]]:
    """Return the centres of the windows, and the CPU µs an item in each by part."""
    edges = np.linspace(seen[0].lines, seen[-1].lines, WINDOWS + 1)
    assert edges[-1] > 0.9 * items
    lines = [one.lines for one in seen]
    costs = {
        PARTS.get(part, part): np.diff(np.interp(edges, lines, [one.cpu_s[part] for one in seen]))
        / np.diff(edges)
        * 1e6
        for part in seen[0].cpu_s
    }
    return (edges[1:] + edges[:-1]) / 2, costs


def line(at: Windows, values: Windows) -> tuple[float, float]:
    """Fit a line; gives its rise over the whole run, and the standard error of that."""
    span = at[-1] - at[0]
    (slope, _), covariance = np.polyfit(at, values, 1, cov=True)
    return float(slope * span), float(np.sqrt(covariance[0, 0]) * span)


def draw(path: Path, at: Windows, costs: dict[str, Windows], title: str) -> None:
    """Draw the cost of an item over the run."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of what it draws with

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(at, np.sum([*costs.values()], axis=0), "k.-", label="together")
    for part, cost in costs.items():
        axes.plot(at, cost, ".-", linewidth=1, label=part)
    axes.set(xlabel="items done", ylabel="CPU µs an item", title=title, ylim=(0, None), xlim=(0, None))
    axes.legend(ncols=5, fontsize="small", loc="upper center")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
