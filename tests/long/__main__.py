"""`make long NAME=… ARGS="…"`: runs one long test, benchmark or fuzzer; without a name, lists them."""

import os
import sys
from typing import Final, NamedTuple

from tests.support.service import ROOT


class LongRun(NamedTuple):
    """One entry of the list: what it does, how long that takes by default, and where it is."""

    what: str
    takes: str
    module: str
    args: tuple[str, ...] = ()


APART: Final = str(ROOT / ".venv" / "apart" / "bin" / "schemathesis")
GPU: Final = str(ROOT / ".venv" / "gpu" / "bin" / "python")
FUZZ: Final = ("-max_total_time=600", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048")
RUNS: Final = {
    "soak": LongRun("mixed load while parts are killed every 20 s (--minutes 20)", "20 min", "faults.soak"),
    "recovery": LongRun(
        "how soon a killed worker's jobs are done elsewhere (--recovery 50)",
        "10 min",
        "faults.soak",
        ("--recovery", "50", "--machines", "5"),
    ),
    "failover": LongRun(
        "primary and replica of the queue change places under load (--rounds 10)", "30 s", "faults.failover"
    ),
    "goodput": LongRun("what 1 % of inputs that make the run fail costs the others", "3 min", "faults.goodput"),
    "deliveries": LongRun(
        "10,000 webhooks through an outage of all parts; latency of the first attempt", "10 min", "deliveries"
    ),
    "client-map": LongRun(
        "the Python client maps 10,000 inputs, twice, while gateway and worker are killed", "3 min", "client_map"
    ),
    "rollouts": LongRun(
        "a model upgraded, canaried, promoted, rolled back under load (--minutes 5)", "5 min", "rollouts"
    ),
    "store-stress": LongRun(
        "random steps of the store, compared with a model (--steps 100000 --seed 1)", "8 min", "store_stress"
    ),
    "abuse": LongRun(
        "what a calm tenant waits beside 30 that abuse the service, and 30 that do not", "8 min", "abuse.abuse"
    ),
    "abuse-memory": LongRun(
        "five rounds of all abuse: no part's memory may grow", "8 min", "abuse.abuse", ("--memory",)
    ),
    "denials": LongRun("the time of denied requests: it must not tell what exists", "1 min", "abuse.denials"),
    "schemathesis": LongRun(
        "5,000 requests or more, made from our OpenAPI document", "10 min", "fuzz.openapi", (APART,)
    ),
    "fuzz": LongRun("fuzzes all parsers, guided by coverage (-max_total_time=600)", "10 min", "fuzz.parsers", FUZZ),
    "bench-guard": LongRun("CPU time of a small job, against limits", "3 min", "benchmarks.guard"),
    "fairness": LongRun("what a calm tenant waits beside one that floods", "3 min", "benchmarks.fairness"),
    "real-models": LongRun("ONNX files that packages carry, compared with ONNX Runtime", "10 min", "real_models"),
    "converters": LongRun(
        "models of scikit-learn, LightGBM and XGBoost as converted (--python PATH)", "1 min", "converters.__main__"
    ),
    "beside": LongRun("a fast model beside a slow one, by number of workers and runs", "3 min", "benchmarks.beside"),
    "caps": LongRun("batch caps that workers choose, beside the best of a sweep", "10 min", "benchmarks.caps"),
    "flat": LongRun("memory of models through batches of random sizes (--batches 10000)", "10 min", "benchmarks.flat"),
    "lengths": LongRun(
        "texts that are padded to run together, beside batches of one length", "2 min", "benchmarks.lengths"
    ),
    "lists": LongRun(
        "lists by filter over 300,000 waiting jobs: their latency, and what they cost submits",
        "6 min",
        "benchmarks.lists",
    ),
    "memory": LongRun("memory of all parts over a million jobs", "10 min", "benchmarks.memory"),
    "ops-page": LongRun(
        "the operations page over 1,000 live jobs and 100 events/s: its longest task, first paint, size",
        "2 min",
        "benchmarks.ops_page",
    ),
    "outputs": LongRun("a fast model beside 100 outputs of 5 MB and 8 of 60 MB", "5 min", "benchmarks.outputs"),
    "waiting": LongRun("what a million bulk jobs cost interactive ones", "10 min", "benchmarks.waiting"),
    "bulk-soak": LongRun("a bulk job of 200,000 digits while parts are killed (--lines 200000)", "15 min", "bulk.soak"),
    "bulk-embeddings": LongRun(
        "20,000 texts by OpenAI's client while parts are killed (--lines 20000)", "2 min", "bulk.embeddings"
    ),
    "bulk-bench": LongRun("SqueezeNet over 2,000 JPEGs: the limit, --local and a service", "10 min", "bulk.benchmark"),
    "bulk-long": LongRun("CPU time of an item over a long bulk run, drawn (--items 500000)", "10 min", "bulk.long_run"),
    "provider-options": LongRun(
        "what ONNX Runtime's GPU providers say of our options; needs gcc, no GPU", "1 min", "provider_options", (GPU,)
    ),
}


def main(argv: list[str]) -> int:
    """List the runs, or replace this process by the run that is named; its arguments come after its defaults."""
    if not argv or argv[0] not in RUNS:
        for name, run in RUNS.items():
            sys.stdout.write(f"  make long NAME={name:16} {run.takes:>6}  {run.what}\n")
        return 2 if argv else 0
    run = RUNS[argv[0]]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "client"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", f"tests.long.{run.module}", *run.args, *argv[1:]]
    return os.execv(sys.executable, command)  # noqa: S606 - our own module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
