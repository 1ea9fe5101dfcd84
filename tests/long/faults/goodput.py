"""The throughput of good inputs while one input in a hundred makes its run fail.

Closed loop, clean and spoiled rounds in turn on one running service. The culprits fail behind the whole network, so
that a failed run costs what a good one does. A server that fails whole batches of 32 would keep 0.72.
"""

import argparse
import asyncio
import io
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import orjson
from PIL import Image

from cli.bench.load.connection import Address, connect
from cli.bench.load.submit_modes import build_submit_request
from tests.support import models
from tests.support.model_files import fragile
from tests.support.service import DIGITS, ROOT, Service

SHARED = ROOT.parent / "shared" / "data"
EVERY = 100  # one in so many is a culprit
DARK_CORNERS = ("grace_hopper.jpg", "husky.jpg", "goldfish.jpg", "wolves.jpg")


def main() -> int:
    """Measure both models; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        low = [_digits(Path(folder), args.rounds, args.seconds) < 0.9]
        if SHARED.exists():
            low.append(_squeezenet(Path(folder), args.rounds, args.seconds) < 0.8)
    return int(any(low))


def _digits(folder: Path, rounds: int, seconds: float) -> float:
    place = folder / "d" / "digits"
    shutil.copytree(ROOT / "models" / "digits", place)
    fragile.add_guard(place / "1" / "model.onnx", bright=0.9)
    good = [path.read_bytes() for path in DIGITS]
    return _measure("digits", place.parent, good, _spoiled(good[0]), (64, rounds, seconds))


def _squeezenet(folder: Path, rounds: int, seconds: float) -> float:
    models.squeezenet(folder / "s", SHARED, "squeezenet1.1_fp32_dynbatch.derived.onnx")
    file = folder / "s" / "squeezenet" / "1" / "model.onnx"
    fragile.add_guard(file, bright=150)  # a white pixel is 151 and more in each channel, less its mean
    good = [(SHARED / "photos" / name).read_bytes() for name in DARK_CORNERS]
    white = io.BytesIO()
    Image.new("RGB", (400, 300), "white").save(white, "JPEG")
    return _measure("SqueezeNet", folder / "s", good, white.getvalue(), (16, rounds, seconds))


def _spoiled(image: bytes) -> bytes:
    """The same image with a bright corner."""
    picture, out = Image.open(io.BytesIO(image)).convert("L"), io.BytesIO()
    picture.paste(255, (0, 0, picture.width // 3, picture.height // 3))
    picture.save(out, "PNG")
    return out.getvalue()


def _measure(name: str, folder: Path, good: list[bytes], bad: bytes, plan: tuple[int, int, float]) -> float:
    """Print and return the median ratio of healthy answers, spoiled rounds over clean ones."""
    callers, rounds, seconds = plan
    with Service(folder, {"JITNEY_DEAD_LETTERS": "100"}) as service:
        address = Address.of(service.url)
        bodies = [build_submit_request(address, folder_model(folder), _kind(body), body) for body in good]
        culprit = build_submit_request(address, folder_model(folder), _kind(bad), bad)
        spoiled = [*itertools.islice(itertools.cycle(bodies), EVERY - 1), culprit]
        asyncio.run(_round(address, bodies, callers, 2))  # warm
        ratios, batches, cap = [], 0.0, service.http.get("/v1/models").json()["models"][0]["max_batch"]
        for number in range(rounds):
            clean, batch = asyncio.run(_round(address, bodies, callers, seconds))
            dirty, _ = asyncio.run(_round(address, spoiled, callers, seconds))
            assert set(clean) == {"succeeded"}, clean
            assert set(dirty) <= {"succeeded", "inference_failed"}, dirty
            ratios.append(dirty["succeeded"] / clean["succeeded"])
            batches += batch / rounds
            share = dirty["inference_failed"] / dirty.total()
            print(
                f"  round {number + 1}: {clean['succeeded'] / seconds:.0f}/s clean; "
                f"{dirty['succeeded'] / seconds:.0f}/s healthy beside {share:.1%} culprits: {ratios[-1]:.2f}"
            )
    ratio = statistics.median(ratios)
    print(
        f"{name}, {callers} callers, at most {cap} a batch, mean {batches:.1f}: goodput {ratio:.2f} of clean "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {rounds} rounds)",
        flush=True,
    )
    return ratio


def folder_model(folder: Path) -> str:
    """The one model in a folder."""
    return next(folder.iterdir()).name


def _kind(body: bytes) -> str:
    return "image/png" if body.startswith(b"\x89PNG") else "image/jpeg"


async def _round(address: Address, requests: list[bytes], callers: int, seconds: float) -> tuple[Counter[str], float]:
    """Count the ends of jobs by success or error code, and compute the mean batch."""
    ends: Counter[str] = Counter()
    rows, turn, stop_at = [0.0], itertools.cycle(requests), time.perf_counter() + seconds

    async def call() -> None:
        connection = await connect(address)
        while time.perf_counter() < stop_at:
            job = orjson.loads((await connection.request(next(turn))).body)
            ends[job["status"] if job["status"] == "succeeded" else (job.get("error") or job)["code"]] += 1
            rows[0] += 1 / (job.get("batch_size") or 1)
        connection.close()

    await asyncio.gather(*(call() for _ in range(callers)))
    return ends, ends.total() / rows[0]


if __name__ == "__main__":
    sys.exit(main())
