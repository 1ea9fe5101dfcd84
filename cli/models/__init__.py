"""Entry point of `jitney models`: the table of its verbs; imports the module of a verb and runs it."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from cli.extras import missing_packages


class ModelsVerb(NamedTuple):
    """A verb: the module whose `main` takes it and its arguments, what it needs, and the extra that installs that."""

    module: str
    description: str
    packages: tuple[str, ...] = ()
    extra: str = "cpu"


_GATEWAY: Final = "cli.models.admin"
_FILES: Final = "cli.models.file_commands"
VERBS: Final = {
    "list": ModelsVerb(_GATEWAY, "list versions with their status and share of the jobs"),
    "load": ModelsVerb(_GATEWAY, "load or reload a version"),
    "unload": ModelsVerb(_GATEWAY, "unload a version or a model once its queues are empty"),
    "share": ModelsVerb(_GATEWAY, "send a share of the jobs to a version, as canary"),
    "promote": ModelsVerb(_GATEWAY, "send all jobs to a version"),
    "rollback": ModelsVerb(_GATEWAY, "end the canary, or return to the previous version"),
    "follow": ModelsVerb(_GATEWAY, "serve what the model folder selects"),
    "doctor": ModelsVerb(_FILES, "diagnose whether a model can be batched, and fix it if possible", ("onnxruntime",)),
    "check": ModelsVerb(_FILES, "test that batching does not change the outputs of a model", ("onnxruntime",)),
    "profile": ModelsVerb(_FILES, "measure and store the latency of each batch size", ("onnxruntime",)),
    "import": ModelsVerb(
        "cli.models.importing.command",
        "create a model folder from a file or a model library",
        ("onnxruntime", "onnx"),
        "cpu,models",
    ),
    "optimize": ModelsVerb(
        "cli.models.optimizing.command",
        "add a faster version: simplified, FP16, INT8, preprocessing in the graph",
        ("onnxruntime", "onnx", "sympy", "tqdm"),
        "cpu,optimize",
    ),
}
EX_USAGE: Final = 64


def main(argv: Sequence[str]) -> int:
    """Run `jitney models` and return its exit code."""
    asks_for_help = not {"-h", "--help"}.isdisjoint(argv)
    if verb := VERBS.get(argv[0]) if argv else None:
        if not asks_for_help and (hint := missing_packages(verb.extra, *verb.packages)):
            print(f"jitney models: {argv[0]} {hint}", file=sys.stderr)
            return EX_USAGE
        code: int = importlib.import_module(verb.module).main(argv)
        return code
    is_help = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not is_help:
        print(f"jitney models: unknown command {argv[0][:80]!r}; the commands are:", file=sys.stderr)
    lines = ["usage: jitney models COMMAND ... (see also `jitney models COMMAND --help`)", ""]
    lines += [f"  {name:10} {verb.description}" for name, verb in VERBS.items()]
    print("\n".join(lines), file=sys.stdout if is_help else sys.stderr)
    return 0 if is_help else EX_USAGE
