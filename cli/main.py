"""The installed command `jitney`: hands each verb to the part it names, imported only then."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence

# verb → (module with main(argv) -> exit code, what it does)
VERBS = {
    "up": ("cli.serve.up", "run the queue's server, workers, the deliverer and the gateway together on this machine"),
    "api": (
        "cli.serve.gateway_processes",
        "run the gateway: HTTP in, HTTP out; several processes of it on one port, if asked to",
    ),
    "worker": (
        "cli.serve.worker_processes",
        "keep workers running, which gather requests into batches and run the models",
    ),
    "models": (
        "cli.models",
        "what is served, version by version; what model files are fit for: doctor, check, profile, optimize",
    ),
    "keys": ("cli.api_keys", "make, list and revoke API keys"),
    "tenants": ("cli.tenant_limits", "list, set and unset the limits of single tenants"),
    "deliver": ("background.__main__", "deliver webhooks: signed, retried on a schedule"),
    "bulk": (
        "cli.bulk",
        "run a folder, an archive or a table through a service or in this process: results in a file",
    ),
    "gpu-report": (
        "cli.gpu_report.report",
        "measure a model by CPU, CUDA and TensorRT: agreement and speed",
    ),
    "bench": ("cli.bench", "measure a running Jitney: throughput, and where the time of a request goes"),
}
RUNS_MODELS = ("up", "worker", "gpu-report")

_ENVIRONMENT = """environment (all optional; `jitney VERB --help` tells more):
  JITNEY_REDIS_URL    Redis >= 7.0 or Valkey that keeps the queue; `up` brings its own without it
  JITNEY_REDIS_URL_FILE  a file that holds this URL
  PORT, HOST   where the gateway listens (8000, 127.0.0.1)
  JITNEY_MODELS_DIR   the folder of models (models)
  WORKERS      worker processes of `worker` and `up` (1)
  GATEWAYS     gateway processes of `api` and `up` (1)
  JITNEY_DATA_DIR     where `up` keeps the queue (.data)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="jitney",
        description="An async batching inference queue: requests in over HTTP, answers in micro-batches.",
        epilog="verbs:\n"
        + "\n".join(f"  {verb:12} {does}" for verb, (_, does) in VERBS.items())
        + "\n\n"
        + _ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jitney {importlib.metadata.version('jitney')}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of: " + ", ".join(VERBS))
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="...", help="what the verb takes")
    given = parser.parse_args(argv)
    if given.verb in RUNS_MODELS and importlib.util.find_spec("onnxruntime") is None:
        parser.error(
            f'{given.verb} runs models and needs ONNX Runtime: pip install -e ".[cpu]" in its checkout, or ".[gpu]"'
        )
    if given.verb == "bulk" and importlib.util.find_spec("tqdm") is None:
        parser.error('bulk shows its progress with tqdm: pip install -e ".[bulk]" in its checkout')
    try:
        code: int = importlib.import_module(VERBS[given.verb][0]).main(given.args)
    except KeyboardInterrupt:  # before the verb listens to signals itself; what it had begun is undone by now
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
