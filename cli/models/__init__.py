"""`jitney models VERB`: manages served versions, and checks, profiles, imports and optimizes model files."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

# Calls of a gateway: cli/models/admin/verbs.py.
VERBS: Final = {
    "list": "list versions with their status and share of the jobs",
    "load": "load or reload a version",
    "unload": "unload a version or a model once its queues are empty",
    "share": "send a share of the jobs to a version, as canary",
    "promote": "send all jobs to a version",
    "rollback": "end the canary, or return to the previous version",
    "follow": "serve what the model folder selects",
}
# Checks of model files, which need ONNX Runtime: cli/models/file_commands.py.
FILE_VERBS: Final = {
    "doctor": "diagnose whether a model can be batched, and fix it if possible",
    "check": "test that batching does not change the outputs of a model",
    "profile": "measure and store the latency of each batch size",
}
# Verbs that need more packages: verb → (module, packages, extras that install them, description).
VERBS_WITH_EXTRAS: Final = {
    "import": (
        "cli.models.importing.command",
        ("onnxruntime", "onnx"),
        "cpu,models",
        "create a model folder from a file or a model library",
    ),
    "optimize": (
        "cli.models.optimizing.command",
        ("onnxruntime", "onnx", "sympy", "tqdm"),
        "cpu,optimize",
        "add a faster version: simplified, FP16, INT8, preprocessing in the graph",
    ),
}
EX_USAGE: Final = 64


def main(argv: Sequence[str]) -> int:
    """Run `jitney models` and return its exit code."""
    asks_for_help = not {"-h", "--help"}.isdisjoint(argv)
    if argv and argv[0] in VERBS:
        code: int = importlib.import_module("cli.models.admin.verbs").main(argv)
        return code
    if argv and argv[0] in FILE_VERBS:
        if not asks_for_help and importlib.util.find_spec("onnxruntime") is None:
            hint = 'needs ONNX Runtime: pip install -e ".[cpu]" in the checkout, or ".[gpu]"'
            print(f"jitney models: {argv[0]} {hint}", file=sys.stderr)
            return EX_USAGE
        file_code: int = importlib.import_module("cli.models.file_commands").main(argv)
        return file_code
    if argv and argv[0] in VERBS_WITH_EXTRAS:
        module, packages, extra, _ = VERBS_WITH_EXTRAS[argv[0]]
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing and not asks_for_help:
            hint = f'needs {", ".join(missing)}: pip install -e ".[{extra}]" in the checkout'
            print(f"jitney models: {argv[0]} {hint}", file=sys.stderr)
            return EX_USAGE
        code_with_extras: int = importlib.import_module(module).main(argv[1:])
        return code_with_extras
    is_help = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not is_help:
        print(f"jitney models: unknown verb {argv[0][:80]!r}; the verbs are:", file=sys.stderr)
    verbs = VERBS | FILE_VERBS | {verb: text for verb, (*_, text) in VERBS_WITH_EXTRAS.items()}
    lines = ["usage: jitney models VERB ... (see also `jitney models VERB --help`)", ""]
    lines += [f"  {verb:10} {text}" for verb, text in verbs.items()]
    print("\n".join(lines), file=sys.stdout if is_help else sys.stderr)
    return 0 if is_help else EX_USAGE
