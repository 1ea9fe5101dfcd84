"""A bulk job of many digits while every part is killed in turn; its results must add up exactly.

All real: `jitney up`, OpenAI's client, kill -9 of gateway, worker, background process and the queue's server. Exits 1
where a line is lost or twice, or the queue's server takes 200 MB.
"""

import argparse
import base64
import itertools
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import redis
from openai import OpenAI

from tests.support import bulks
from tests.support.service import DIGITS, Service
from tests.support.waiting import wait_until

PARTS = ("background", "worker", "api", "server")
MOST_BYTES = 200 << 20
LIMIT_S = 3600.0
ODD_SHARE = 0.03
PATIENT = {"JITNEY_LEASE_S": "5", "JITNEY_HEARTBEAT_S": "1"}


def write_lines(path: Path, count: int, chance: random.Random) -> int:
    """Write a file of lines, 3 % with an invalid image; return the number of those."""
    texts = [base64.b64encode(image.read_bytes()).decode() for image in DIGITS]
    broken = base64.b64encode(DIGITS[0].read_bytes()[:200]).decode()
    odd = 0
    with path.open("w") as file:
        for nth in range(count):
            is_odd = chance.random() < ODD_SHARE
            odd += is_odd
            body = {"model": "digits", "input": {"image": broken if is_odd else texts[nth % len(texts)]}}
            line = {"custom_id": f"digit-{nth}", "method": "POST", "url": "/v1/jobs", "body": body}
            file.write(json.dumps(line) + "\n")
    return odd


class BulkMonitor(threading.Thread):
    """Samples the memory of the queue server and the batch."""

    def __init__(self, service: Service, ai: OpenAI, batch_id: str) -> None:
        super().__init__(daemon=True)
        self._service, self._ai, self._batch_id = service, ai, batch_id
        self.over, self.peak_bytes, self.rss_bytes = threading.Event(), 0, 0
        self.seen: list[tuple[float, int]] = []  # seconds, lines done
        self.status = ""

    def run(self) -> None:
        socket = wait_until(lambda: next(iter(self._service.folder.rglob("*.sock")), None), "the queue's socket")
        while not self.over.wait(0.25):
            try:
                with redis.Redis(unix_socket_path=str(socket), socket_timeout=2) as client:
                    memory = client.info("memory")
                self.peak_bytes = max(self.peak_bytes, memory["used_memory"], memory["used_memory_peak"])
                self.rss_bytes = max(self.rss_bytes, memory["used_memory_rss"])
                batch = self._ai.batches.retrieve(self._batch_id)
            except (redis.RedisError, openai.OpenAIError):
                continue
            counts = batch.request_counts
            assert counts is not None
            self.seen.append((time.monotonic(), counts.completed + counts.failed))
            self.status = batch.status


def kill_in_turn(service: Service, watch: BulkMonitor, interval_s: float) -> Counter[str]:
    """Kill a part at intervals until the batch has ended."""
    kills: Counter[str] = Counter()
    for part in itertools.cycle(PARTS):
        if watch.over.wait(interval_s) or watch.status in bulks.ENDED:
            return kills
        service.kill(part)
        kills[part] += 1
        done = watch.seen[-1][1] if watch.seen else 0
        print(f"  {part} killed; {done} lines are done", flush=True)
    return kills


def cpu_s(service: Service) -> dict[str, float]:
    """CPU time that each part has used so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    used = {}
    for part in PARTS:
        words = Path(f"/proc/{service.pid(part)}/stat").read_text().rpartition(")")[2].split()
        used[part] = (int(words[11]) + int(words[12])) / ticks
    return used


def count_results(ai: OpenAI, batch: Any, count: int) -> dict[str, int]:
    """Count the lines of both files, and the lost, unknown and duplicate ones."""
    found: Counter[str] = Counter()
    sizes = {}
    for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
        with ai.files.with_streaming_response.content(file_id) as answer:
            before = sum(found.values())
            for text in answer.iter_lines():
                found[json.loads(text)["custom_id"]] += 1
        sizes[kind] = sum(found.values()) - before
    wanted = {f"digit-{nth}" for nth in range(count)}
    twice = sum(times > 1 for times in found.values())
    return {**sizes, "lost": len(wanted - found.keys()), "unknown": len(found.keys() - wanted), "twice": twice}


def soak(count: int, interval_s: float, seed: int, env: dict[str, str]) -> bool:
    """Run it; return whether every check holds."""
    with Service(env={**PATIENT, **env}) as service, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.jsonl"
        odd = write_lines(path, count, random.Random(seed))
        ai = bulks.client(service.url, timeout=600)
        began_s = time.monotonic()
        with path.open("rb") as lines:
            file = ai.files.create(file=lines, purpose="batch")
        size, took_s = path.stat().st_size, time.monotonic() - began_s
        print(
            f"{count} lines, {size >> 20} MiB, uploaded in {took_s:.1f} s ({size / took_s / 1e6:.0f} MB/s)", flush=True
        )
        path.unlink()
        began_s = time.monotonic()
        before = cpu_s(service)
        batch = bulks.create_batch(ai, file.id)
        watch = BulkMonitor(service, ai, batch.id)
        watch.start()
        kills = kill_in_turn(service, watch, interval_s) if interval_s else Counter[str]()
        wait_until(lambda: watch.status in bulks.ENDED, "the batch ends", LIMIT_S)
        took_s = time.monotonic() - began_s
        if not kills:
            each = {part: f"{(used - before[part]) / count * 1e6:.0f}" for part, used in cpu_s(service).items()}
            print(f"CPU time of a line, in us: {each}")
        watch.over.set()
        watch.join()
        done = ai.batches.retrieve(batch.id)
        found = count_results(ai, done, count)
        mib = watch.peak_bytes / (1 << 20)
        print(f"{done.status} after {took_s:.0f} s: {count / took_s:.0f} lines/s; killed: {dict(kills)}")
        print(
            f"{found}; {odd} images were broken; "
            f"the queue's server took {mib:.0f} MiB at most (RSS {watch.rss_bytes >> 20})"
        )
        if match := re.findall(r"Traceback.*", service.log()):
            print(service.log()[-4000:], len(match))
        whole = (found["output"] + found["error"], found["lost"], found["unknown"], found["twice"]) == (count, 0, 0, 0)
        return whole and found["error"] == odd and done.status == "completed" and watch.peak_bytes < MOST_BYTES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--kill-every", type=float, default=15, help="seconds between two kills; 0 = none")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    env = {name: os.environ[name] for name in os.environ if name.startswith("BULK_")}
    return 0 if soak(given.lines, given.kill_every, given.seed, env) else 1


if __name__ == "__main__":
    sys.exit(main())
