"""Compares texts of different lengths that are padded to run together with batches of one length.

Two encoders with random weights, one of MiniLM's size and a small one, are served twice each: padded as by default, and
with `[padding] enabled = false`. Sentences of the documentation are sent by 64 callers, in rounds of both in turn.
Prints rates, mean batches and what the worker measured. Exit code 1: padding loses (see LEAST_RATE, LEAST_BATCH).
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from cli.bench.statistics import Slice
from tests.support.model_files.transformer import doc_sentences, encoder
from tests.support.service import Service

IN_FLIGHT: Final = 64
SIZES: Final = {"minilm": (6, 384, 12), "small": (3, 32, 2)}  # layers, width, heads
LEAST_RATE: Final = {"minilm": 1.0, "small": 2.0}  # padded over not padded
LEAST_BATCH: Final = {"minilm": 3.0, "small": 3.0}
TOML: Final = 'task = "text-embedding"\n[text]\nmax_tokens = 256\n[padding]\n'


def measure(service: Service, model: str, texts: list[str], seconds: float) -> Slice:
    """Send texts for some seconds."""
    address = Address.of(service.url)
    bodies = [json.dumps({"model": model, "input": {"text": text}}).encode() for text in texts]
    requests = [build_submit_request(address, "", "application/json", body) for body in bodies]
    exchange = Exchange(1, requests, submit_and_wait)
    return asyncio.run(closed_loop.measure(address, exchange, LoadLevel(WAIT, IN_FLIGHT), seconds))


def compare(service: Service, name: str, texts: list[str], rounds: int, seconds: float) -> bool:
    """Measure a model both ways in turn; prints the medians, returns whether padding gains what it has to."""
    found: dict[str, list[Slice]] = {f"{name}-padded": [], f"{name}-exact": []}
    for number in range(rounds + 1):
        for model in sorted(found, reverse=bool(number % 2)):
            measured = measure(service, model, texts, seconds)
            if measured.failures:
                sys.exit(f"{model}: {measured.first_problem}")
            if number:
                found[model].append(measured)
    padded, exact = found.values()
    rates = [one.throughput / other.throughput for one, other in zip(padded, exact, strict=True)]
    means = [statistics.median(each.answers / each.batches for each in slices) for slices in (padded, exact)]
    rate, batch = statistics.median(rates), means[0] / means[1]
    for model, mean in zip(found, means, strict=True):
        card = service.http.get(f"/v1/models/{model}").json()["versions"][0]
        middle = statistics.median(each.throughput for each in found[model])
        print(f"{model}: {middle:.0f}/s, mean batch {mean:.1f}; {card['lengths']}; ms of runs: {card['run_ms']}")
    spread = f"{min(rates):.2f} to {max(rates):.2f}"
    print(f"{name}: rate {rate:.2f} x ({spread}), mean batch {batch:.1f} x in {rounds} rounds", flush=True)
    return rate >= LEAST_RATE[name] and batch >= LEAST_BATCH[name]


def main() -> int:
    """Lay out the models, serve them and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    texts = doc_sentences()
    lengths = sorted(len(text.split()) for text in texts)
    print(f"{len(texts)} sentences of {lengths[0]} to {lengths[-1]} words, median {lengths[len(lengths) // 2]}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (layers, width, heads) in SIZES.items():
            for way, keys in (("padded", ""), ("exact", "enabled = false")):
                encoder(Path(folder), f"{name}-{way}", layers, width, heads, toml=f"{TOML}{keys}", sentences=texts)
        with Service(Path(folder)) as service:
            results = [compare(service, name, texts, args.rounds, args.seconds) for name in SIZES]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
