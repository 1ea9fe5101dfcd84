"""The operations page over 1,000 live jobs that change 100 times a second: the longest task of its main thread.

A gateway process, the queue's server and Chromium; the test plays the workers. Each view is loaded and shown for a
while. Exit code 1: a task took more than 100 ms, the first paint came later than 1 s, or the page has 150 kB or more.
On a machine that is busy with other things, tasks take longer than they would.
"""

import argparse
import asyncio
import math
import sys
import threading
import time
from typing import Any, Final

from jobs.contract.ids import new_job_id
from jobs.contract.job import Submission
from jobs.metrics.histograms import STAGES, HistogramBuffer
from tests.support.browser import start_browser
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.ops_page import OpsPage
from tests.support.servers import Server

LIVE: Final = 1000
EVENTS_S: Final = 100  # submits, claims and ends in a second, together
STEP_S: Final = 0.1
LIMIT_TASK_MS, LIMIT_PAINT_MS, LIMIT_BYTES = 100.0, 1000.0, 150_000
VIEWS: Final = ("overview", "jobs", "jobs?status=queued,running", "dead-letters")
OBSERVE: Final = """
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map(({ duration }) => duration)))
        .observe({ type: "longtask", buffered: true });
    window.gaps = [];
    let before = performance.now();
    const frame = (now) => { window.gaps.push(now - before); before = now; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
"""
MEASURED: Final = """
    const files = performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
        .filter(({ name }) => new URL(name).pathname.startsWith("/ops"));
    return {
        tasks: window.tasks, gap: Math.max(...window.gaps),
        paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null,
        bytes: files.reduce((all, { decodedBodySize }) => all + decodedBodySize, 0),
        nodes: document.getElementsByTagName("*").length,
    };
"""


class Traffic(threading.Thread):
    """Keeps `LIVE` jobs open over all models, and makes `EVENTS_S` events a second."""

    def __init__(self, queue: Server, gateway: GatewayProcess, models: int) -> None:
        super().__init__(daemon=True)
        self._queue, self._gateway, self._models = queue, gateway, models
        self.is_ready, self.is_over, self.events = threading.Event(), threading.Event(), 0

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        worker, names = Worker(self._queue), [f"m{number}" for number in range(self._models)]
        for name in names:
            await worker.announce(self._gateway, name=name)
            await self._run_batches(worker, name)
        for number in range(LIVE):
            await self._submit(worker, names[number % len(names)])
        self.is_ready.set()
        turn = 0
        while not self.is_over.is_set():
            began = time.monotonic()
            for _ in range(math.ceil(EVENTS_S * STEP_S / 3)):  # one job's submit, claim and end
                name, turn = names[turn % len(names)], turn + 1
                await self._submit(worker, name)
                claimed = await worker.claim(1, name)
                await (worker.fail if turn % 50 == 0 else worker.succeed)(claimed)
                self.events += 3
            self.is_over.wait(max(0.0, began + STEP_S - time.monotonic()))
        await worker.connection.aclose()

    async def _run_batches(self, worker: Worker, model: str) -> None:
        """Note sizes and times of batches, as a worker does."""
        buffer = HistogramBuffer()
        buffer.observe("size", [1.0, 2.0, 7.0, 32.0, 32.0])
        for stage in STAGES:
            buffer.observe(stage, [0.3, 1.5, 20.0, 300.0])
        await buffer.flush(worker.connection, model)

    async def _submit(self, worker: Worker, model: str) -> None:
        job = Submission(new_job_id(0), model, "1", "image", PNG, metadata=b'{"order":"17"}')
        await worker.store.submit([job])


def main() -> int:
    """Measure each view, print a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=15.0, help="for which each view is shown")
    args = parser.parse_args()
    queue, worst = Server(), 0
    browser = start_browser()
    try:
        with GatewayProcess(queue, {"JITNEY_MODEL_REFRESH_S": "5"}) as gateway:
            traffic = Traffic(queue, gateway, args.models)
            traffic.start()
            if not traffic.is_ready.wait(60):
                raise RuntimeError("the jobs are not there")
            page = OpsPage(browser, f"http://127.0.0.1:{gateway.port}")
            for view in VIEWS:
                worst = max(worst, measure(page, view, args.seconds, traffic))
            traffic.is_over.set()
            traffic.join(10)
    finally:
        browser.quit()
        queue.close()
    return worst


def measure(page: OpsPage, view: str, seconds: float, traffic: Traffic) -> int:
    """Show a view for some time; print what it cost; return 1 if a limit is exceeded."""
    observer = page.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": OBSERVE})
    began, events = time.monotonic(), traffic.events
    page.open(view)
    threading.Event().wait(seconds)
    rate = (traffic.events - events) / (time.monotonic() - began)
    found: dict[str, Any] = page.run(MEASURED)
    page.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", observer)
    longest = max(found["tasks"], default=0.0)
    sys.stdout.write(
        f"{view:28} {rate:4.0f} events/s; tasks over 50 ms: {len(found['tasks'])}, longest {longest:.0f} ms; "
        f"longest frame {found['gap']:.0f} ms; first paint {found['paint'] or 0:.0f} ms; "
        f"{found['bytes'] / 1000:.0f} kB; {found['nodes']} elements\n"
    )
    sys.stdout.flush()
    is_painted = found["paint"] is not None and found["paint"] <= LIMIT_PAINT_MS
    return int(longest > LIMIT_TASK_MS or not is_painted or found["bytes"] >= LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
