"""Compares texts of different lengths that are padded to run together with batches of one length.

Three networks with random weights are served twice each, padded as by default and with `[padding] enabled = false`: an
encoder of MiniLM's size and a small one, which get texts, and a network that averages words, which gets token ids as
tensors. Paragraphs of the documentation are sent by 64 callers, in rounds of both in turn. Prints rates, mean batches
and what the worker measured. Exit code 1: padding gains less than LEAST_RATE or LEAST_BATCH.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from cli.bench.statistics import Slice
from tests.support.model_files.transformer import averager, doc_paragraphs, encoder, tokenizer
from tests.support.service import Service

IN_FLIGHT: Final = 64
ENCODERS: Final = {"minilm": (6, 384, 12), "encoder": (3, 32, 2)}  # layers, width, heads
AVERAGER_WIDTH: Final = 1600
LEAST_RATE: Final = {"minilm": 1.0, "encoder": 1.0, "averager": 2.0}  # padded over not padded
LEAST_BATCH: Final = 3.0
TEXT: Final = 'task = "text-embedding"\n[text]\nmax_tokens = 256\n'
TENSORS: Final = 'task = "tensor"\n[inputs.ids]\npad_axis = 1\n[inputs.mask]\nfill = "mask"\n'
WAYS: Final = {"padded": "", "exact": "[padding]\nenabled = false\n"}


def measure(service: Service, model: str, inputs: list[Any], seconds: float) -> Slice:
    """Send inputs for some seconds."""
    address = Address.of(service.url)
    bodies = [json.dumps({"model": model, "input": each}).encode() for each in inputs]
    requests = [build_submit_request(address, "", "application/json", body) for body in bodies]
    exchange = Exchange(1, requests, submit_and_wait)
    return asyncio.run(closed_loop.measure(address, exchange, LoadLevel(WAIT, IN_FLIGHT), seconds))


def compare(service: Service, name: str, inputs: list[Any], rounds: int, seconds: float) -> bool:
    """Measure a model both ways in turn; prints the medians, returns whether padding gains what it has to."""
    found: dict[str, list[Slice]] = {f"{name}-{way}": [] for way in WAYS}
    for number in range(rounds + 1):
        for model in sorted(found, reverse=bool(number % 2)):
            measured = measure(service, model, inputs, seconds)
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
    return rate >= LEAST_RATE[name] and batch >= LEAST_BATCH


def lay_out(models_dir: Path, texts: list[str]) -> None:
    """Lay out all models."""
    for way, keys in WAYS.items():
        for name, (layers, width, heads) in ENCODERS.items():
            encoder(models_dir, f"{name}-{way}", layers, width, heads, toml=TEXT + keys, texts=texts)
        averager(models_dir, f"averager-{way}", AVERAGER_WIDTH, TENSORS + keys)


def main() -> int:
    """Lay out the models, serve them and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    texts = doc_paragraphs()
    encode = tokenizer(texts).encode
    ids = [encode(text).ids for text in texts]
    lengths = sorted(map(len, ids))
    print(f"{len(texts)} paragraphs of {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}")
    inputs: dict[str, list[Any]] = {name: [{"text": text} for text in texts] for name in ENCODERS}
    inputs["averager"] = [
        {"tensors": {"ids": {"datatype": "INT64", "shape": [len(each)], "data": each}}} for each in ids
    ]
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), texts)
        with Service(Path(folder)) as service:
            results = [compare(service, name, inputs[name], args.rounds, args.seconds) for name in LEAST_RATE]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
