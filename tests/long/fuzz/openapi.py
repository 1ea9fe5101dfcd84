"""At least 5,000 requests generated from /openapi.json, against a whole Jitney with API keys.

Checked: no server error, no door that opens without a key, none that shows one tenant another's job. Needs
schemathesis, which the make target installs beside us. Exit code 1: something was found, with a curl line for each.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import httpx2

from tests.support import models
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

EXAMPLES: Final = 120  # of an operation and phase
SECONDS: Final = os.environ.get("SCHEMATHESIS_SECONDS", "540")  # of fuzzing and stateful requests
CHECKS: Final = "not_a_server_error,ignored_auth,object_level_authorization,foreign_ids_stay_foreign"
HOOKS: Final = '''
import os
import schemathesis

ID = os.environ["JIT_FOREIGN_ID"]


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Half of all ids belong to a third tenant: the caller must not learn of them."""
    if path_parameters and "job_id" in path_parameters and hash(str(path_parameters)) % 2:
        return {**path_parameters, "job_id": ID}
    return path_parameters


@schemathesis.serializer("application/x-ndjson")
def write_lines(context, value):
    return str(value).encode(errors="replace")


@schemathesis.check
def foreign_ids_stay_foreign(ctx, response, case):
    if (case.path_parameters or {}).get("job_id") == ID and response.status_code < 400:
        raise AssertionError(f"another tenant's job was answered {response.status_code}: {response.text[:300]}")
'''
CONFIG: Final = """
[auth.wfc]
path = "users.yaml"
user = "acme"
peers = ["acme", "bolt"]
"""


def make_key(service: Service, tenant: str, *more: str) -> str:
    env = {**os.environ, "JITNEY_DATA_DIR": str(service.folder / "data")}
    env.pop("JITNEY_REDIS_URL", None)
    command = [sys.executable, "-m", "cli.main", "keys", "create", "--tenant", tenant, *more]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()


def client(service: Service, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=30)


def run(program: str, service: Service, folder: Path) -> int:
    """Make the requests, print the results, return the exit code."""
    keys = {name: make_key(service, name, *more) for name, *more in (("acme", "--admin"), ("bolt",), ("third",))}
    users = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {key}"}]}
        for name, key in keys.items()
    ]
    (folder / "users.yaml").write_text(json.dumps({"auth": users[:2]}))
    (folder / "hooks.py").write_text(HOOKS)
    (folder / "schemathesis.toml").write_text(CONFIG)
    with client(service, keys["third"]) as http:
        wait_until(lambda: http.get("/v1/jobs").status_code == 200, "the keys are known")
        foreign = http.post("/v1/jobs", files={"image": DIGITS[0].read_bytes()}, data={"model": "digits"}).json()["id"]
        before = http.get(f"/v1/jobs/{foreign}?wait=1").json()
        (folder / "openapi.json").write_text(http.get("/openapi.json").text)
        command = [
            *(program, "run", "openapi.json", "--url", service.url),
            *("--checks", CHECKS, "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES)),
            *("--continue-on-failure", "--workers", "2", "--request-timeout", "30", "--max-time", SECONDS),
            *("--exclude-path-regex", "(events|unload)$"),  # no end; no model for the others
            *("--suppress-health-check", "all", "--warnings", "off", "--no-color", "--seed", "1"),
            *("--report-ndjson-path", "report.ndjson"),
        ]
        env = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder), "JIT_FOREIGN_ID": foreign}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        after = http.get(f"/v1/jobs/{foreign}").json()
    print(done.stdout[-6000:], done.stderr[-2000:])
    faults = service.log().count("Traceback")
    print(f"the third tenant's job is as it was: {before == after}; faults in the gateway's log: {faults}")
    return done.returncode or int(before != after or faults > 0 or not service.pid("api"))


def statuses(report: Path) -> Counter[int]:
    """Count the answers by status."""
    counted: Counter[int] = Counter()
    for line in report.read_text().splitlines():
        counted.update(int(code) for code in re.findall(r'"status_code":\s*(\d{3})', line))
    return counted


def main() -> int:
    """Run it; returns the exit code."""
    program = sys.argv[1] if len(sys.argv) > 1 else "schemathesis"
    with tempfile.TemporaryDirectory(prefix="jit") as name:
        folder = Path(name)
        models.doubling(folder / "models")
        (folder / "models" / "digits").symlink_to(ROOT / "models" / "digits")
        with Service(folder / "models", {"JITNEY_MAX_WAIT_S": "1", "JITNEY_PREDICT_WAIT_S": "2"}) as service:
            code = run(program, service, folder)
        if (folder / "report.ndjson").exists():
            print("answers:", json.dumps(dict(sorted(statuses(folder / "report.ndjson").items()))))
    return code


if __name__ == "__main__":
    sys.exit(main())
