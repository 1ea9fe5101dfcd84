"""`jitney models VERB`: what is served, what becomes of each version, and what model files are fit for."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

# These ask a gateway: cli/models/admin/verbs.py.
VERBS: Final = {
    "list": "every version: how it stands, and its share of the jobs",
    "load": "load a version, or load it anew",
    "unload": "let a version go once its lines are empty, or the whole model",
    "share": "give a version a share of the jobs, as canary",
    "promote": "let a version take all jobs",
    "rollback": "end the canary, or give the jobs back to the version before",
    "follow": "let the folder decide again",
}
# These look at files, need ONNX Runtime, and share their options: cli/models/file_commands.py.
FILE_VERBS: Final = {
    "doctor": "tell whether a model can be batched, and mend it where that is sound",
    "check": "prove that batching does not change a model's answers",
    "profile": "measure the latency of each batch size, and keep it",
}
# What needs packages of its own: verb → (module, the packages, the extra that brings them, what it does).
VERBS_WITH_EXTRAS: Final = {
    "import": (
        "cli.models.importing.command",
        ("onnxruntime", "onnx"),
        "cpu,models",
        "make a model folder of a network from elsewhere",
    ),
    "optimize": (
        "cli.models.optimizing.command",
        ("onnxruntime", "onnx", "sympy", "tqdm"),
        "cpu,optimize",
        "make a faster version: simplified, fp16, int8, the pipeline in the graph",
    ),
}
EX_USAGE: Final = 64


def main(argv: Sequence[str]) -> int:
    """Run a verb; returns its exit code."""
    if argv and argv[0] in VERBS:
        code: int = importlib.import_module("cli.models.admin.verbs").main(argv)
        return code
    if argv and argv[0] in FILE_VERBS:
        if importlib.util.find_spec("onnxruntime") is None:
            words = 'needs ONNX Runtime: pip install -e ".[cpu]" in the checkout, or ".[gpu]"'
            print(f"jitney models: {argv[0]} runs models and {words}", file=sys.stderr)
            return EX_USAGE
        of_files: int = importlib.import_module("cli.models.file_commands").main(argv)
        return of_files
    if argv and argv[0] in VERBS_WITH_EXTRAS:
        module, packages, extra, _ = VERBS_WITH_EXTRAS[argv[0]]
        if missing := [one for one in packages if importlib.util.find_spec(one) is None]:
            words = f'needs {", ".join(missing)}: pip install -e ".[{extra}]" in the checkout'
            print(f"jitney models: {argv[0]} {words}", file=sys.stderr)
            return EX_USAGE
        with_extras: int = importlib.import_module(module).main(argv[1:])
        return with_extras
    asked_for_help = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not asked_for_help:
        print(f"jitney models: there is no verb {argv[0][:80]!r}; there are:", file=sys.stderr)
    lines = ["usage: jitney models VERB ..., and `jitney models VERB --help` tells more", ""]
    every = VERBS | FILE_VERBS
    every |= {verb: does for verb, (*_, does) in VERBS_WITH_EXTRAS.items()}
    lines += [f"  {verb:10} {does}" for verb, does in every.items()]
    print("\n".join(lines), file=sys.stdout if asked_for_help else sys.stderr)
    return 0 if asked_for_help else EX_USAGE
