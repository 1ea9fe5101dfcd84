"""Entry point of the `jitney` command: imports the module of a verb and runs it."""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from cli.extras import missing_packages
from jobs.config.fast_imports import fast_imports

# verb → (module with main(argv) -> exit code, description)
VERBS = {
    "up": ("cli.serve.up", "run Redis or Valkey, workers, the background process and gateways on this machine"),
    "api": ("cli.serve.gateway_processes", "run the HTTP gateway, as one process or several on one port"),
    "worker": ("cli.serve.worker_processes", "run worker processes, which batch jobs and run the models"),
    "background": ("background.__main__", "send webhooks and run bulk jobs"),
    "models": ("cli.models", "manage served versions; check, profile, import and optimize model files"),
    "keys": ("cli.api_keys", "create, list and revoke API keys"),
    "tenants": ("cli.tenant_limits", "list, set and unset the limits of single tenants; show their usage"),
    "jobs": ("cli.control.jobs", "find jobs by filter, cancel many, purge one"),
    "queues": ("cli.control.queues", "list, pause, resume and purge queues"),
    "workers": ("cli.control.workers", "list, pause and resume workers"),
    "dead-letters": ("cli.control.dead_letters", "list, replay and purge dead letters"),
    "webhooks": ("cli.control.webhooks", "list and replay webhook deliveries"),
    "bulk": ("cli.bulk.command", "run a folder, an archive or a table and write the results to a file"),
    "gpu-report": ("cli.gpu_report.command", "compare speed and outputs of a model on CPU, CUDA and TensorRT"),
    "bench": ("cli.bench.command", "measure the throughput and latency of a running service"),
}
# verb → (extra, package that it installs)
NEEDS = {**dict.fromkeys(("up", "worker", "gpu-report"), ("cpu", "onnxruntime")), "bulk": ("bulk", "tqdm")}

_ENVIRONMENT = """environment (all optional; see also `jitney COMMAND --help`):
  JITNEY_REDIS_URL       URL of Redis >= 7.0 or Valkey; without it, `up` starts a server
  JITNEY_REDIS_URL_FILE  file that contains this URL
  JITNEY_HOST            address the gateway listens on (127.0.0.1)
  JITNEY_PORT            port the gateway listens on (8000)
  JITNEY_MODELS_DIR      folder of models (models)
  JITNEY_WORKERS         worker processes of `worker` and `up` (1)
  JITNEY_GATEWAYS        gateway processes of `api` and `up` (1)
  JITNEY_DATA_DIR        folder of the server that `up` starts (.data)
REDIS_URL and PORT are also read without the prefix."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="jitney",
        description="An async batching inference queue: HTTP gateway, Redis queue, workers with micro-batches.",
        epilog="\n".join(
            ["commands:", *(f"  {verb:12} {text}" for verb, (_, text) in VERBS.items()), "", _ENVIRONMENT]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jitney {importlib.metadata.version('jitney')}")
    parser.add_argument("verb", choices=VERBS, metavar="COMMAND", help="one of: " + ", ".join(VERBS))
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    parsed = parser.parse_args(argv)
    asks_for_help = not {"-h", "--help"}.isdisjoint(parsed.args)
    extra, package = NEEDS.get(parsed.verb, ("", ""))
    if extra and not asks_for_help and (hint := missing_packages(extra, package)):
        parser.error(f"{parsed.verb} {hint}")
    try:
        with fast_imports():
            module = importlib.import_module(VERBS[parsed.verb][0])
        code: int = module.main(parsed.args)
    except KeyboardInterrupt:  # arrived before the verb installed its own signal handlers
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
