"""Runs a folder of images through Jitney's HTTP API, with the standard library alone: an example to copy and change.

    python3 submit_bulk.py FOLDER RESULTS.jsonl [http://127.0.0.1:8000] [MODEL]

If it is stopped, start it again: it resumes after the last complete chunk, and the Idempotency-Key of a chunk prevents
duplicate jobs. `jitney bulk run` can do more: tables, archives, concurrent requests, very large images.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

CHUNK = 50  # images in one request; their base64 must fit into a body of 32 MiB
RETRYABLE_STATUSES = (408, 429, 500, 502, 503, 504)  # the same request may succeed later


def submit(url: str, key: str, lines: list[str]) -> list[dict[str, Any]]:
    """Send a chunk until all its jobs have ended; the same key finds the same jobs. Return an entry for each line."""
    headers = {"Content-Type": "application/x-ndjson", "Prefer": "wait=60", "Idempotency-Key": key}
    if api_key := os.environ.get("JITNEY_API_KEY"):
        headers["Authorization"] = f"Bearer {api_key}"
    while True:
        wait_s, jobs = 1.0, []
        try:
            request = urllib.request.Request(url, "\n".join(lines).encode(), headers)
            with urllib.request.urlopen(request, timeout=90) as response:
                jobs = json.load(response)["jobs"]
        except urllib.error.HTTPError as error:  # no job was accepted
            body, wait_s = error.read(), float(error.headers.get("Retry-After", 1))
            if error.code not in RETRYABLE_STATUSES and not (jobs := json.loads(body or "{}").get("jobs", [])):
                sys.exit(f"{url} returned {error.code}: {body.decode()}")
        except OSError as error:
            print(f"cannot reach {url}: {error}; retrying", file=sys.stderr)
        refused = [job["error"]["status"] for job in jobs if "status" not in job]
        is_open = any(job.get("status") in ("queued", "running") for job in jobs)
        if jobs and not is_open and not {*refused} & {*RETRYABLE_STATUSES}:
            return jobs
        time.sleep(wait_s)


folder, results = Path(sys.argv[1]), Path(sys.argv[2])
url = (sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:8000") + "/v1/jobs?lane=bulk"
url += f"&model={sys.argv[4]}" if len(sys.argv) > 4 else ""
run = results.with_name(results.name + ".run")  # holds the prefix of this run's keys
if not run.exists() or not results.exists():
    run.write_text(uuid.uuid4().hex)
files = sorted(path for path in folder.rglob("*") if path.is_file())
rows = [row for row in results.open("rb") if row.endswith(b"\n")] if results.exists() else []  # without a partial row
done = len(rows) if len(rows) == len(files) and rows[-1:] else len(rows) // CHUNK * CHUNK
with results.open("ab") as out:
    out.truncate(sum(map(len, rows[:done])))
    for start in range(done, len(files), CHUNK):
        chunk = files[start : start + CHUNK]
        lines = [json.dumps({"input": {"image": base64.b64encode(path.read_bytes()).decode()}}) for path in chunk]
        for path, job in zip(chunk, submit(url, f"{run.read_text()}-{start}", lines), strict=True):
            row = {"input": str(path), **{name: job.get(name) for name in ("status", "output", "error")}}
            out.write(json.dumps(row).encode() + b"\n")
        out.flush()
        print(f"{start + len(chunk)} of {len(files)}", file=sys.stderr)
