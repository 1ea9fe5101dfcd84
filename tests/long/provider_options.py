"""Asks ONNX Runtime's own GPU providers which options they accept, on a machine without a GPU.

The providers' libraries want CUDA's and TensorRT's. Stand-ins for these, compiled on the spot, have every function that
is wanted; they find one GPU, and say "no device" to all that is asked of it. So a provider is loaded and reads its
options, and only then cannot go on. Needs gcc, nm, and an `onnxruntime-gpu` in a virtual environment apart:
`make long NAME=provider-options`.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

from model_runtime.engine import providers
from model_runtime.engine.providers import PROVIDER_NAMES, GpuOptions
from model_runtime.tensor_spec import TensorSpec

ROOT: Final = Path(__file__).parents[2]
# Symbols that name no library: whose they are.
OWNERS: Final = {
    r"^createNvOnnxParser": "libnvonnxparser.so.10",
    r"_INTERNAL$|^getPluginRegistry$|^getInferLibVersion$": "libnvinfer.so.10",
    r"^cu[A-Z]": "libcuda.so.1",
}
LIBRARIES: Final = (
    *("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"),
    *("libcudnn.so.9", "libnvinfer.so.10", "libnvonnxparser.so.10"),
)
UNVERSIONED: Final = {*OWNERS.values()}
NO_DEVICE: Final = 100  # cudaErrorNoDevice

# What a function of TensorRT's gives: an object each of whose methods does nothing and gives nothing.
OBJECT: Final = (
    "static long nothing(void) { return 0; }\n"
    f"static void *methods[] = {{ {'nothing, ' * 200} }};\n"
    "static void *object = methods;\n"
)

# Run by the other Python: options in, what the provider says of them out.
ASK: Final = """
import ctypes, json, sys
folder, model, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name in json.loads(sys.argv[4]):
    ctypes.CDLL(folder + "/" + name, mode=ctypes.RTLD_GLOBAL)
import onnxruntime
onnxruntime.set_default_logger_severity(4)
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
try:
    session = onnxruntime.InferenceSession(model, options, providers=[tuple(asked)], enable_fallback=0)
    print(json.dumps("came up: " + str(session.get_providers())))
except Exception as error:
    print(json.dumps(str(error)))
"""
READ: Final = "cudaSetDevice|no device"  # it has read its options, and goes for its GPU
REFUSED: Final = re.compile(
    r"Unknown provider option|Failed to parse provider option|Invalid TensorRT EP option|\[ERROR\]"
)


def build_stand_ins(capi: Path, folder: Path) -> None:
    """Compile a stub for each library that the providers in `capi` need; raises CalledProcessError."""
    functions: dict[str, set[str]] = defaultdict(set)
    for provider in ("cuda", "tensorrt"):
        command = ["nm", "-D", "--undefined-only", str(capi / f"libonnxruntime_providers_{provider}.so")]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            symbol, _, library = line.split()[-1].partition("@")
            library = library or next((whose for pattern, whose in OWNERS.items() if re.search(pattern, symbol)), "")
            functions[library].add(symbol)
    for library in LIBRARIES:
        source, script = folder / f"{library}.c", folder / f"{library}.map"
        source.write_text(OBJECT + "\n".join(map(_function, sorted(functions[library]))))
        script.write_text(f"{library} {{ global: *; }};")
        versioned = [] if library in UNVERSIONED else [f"-Wl,--version-script={script}"]
        command = ["gcc", "-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,-soname,{library}", *versioned]
        subprocess.run([*command, "-o", str(folder / library), str(source)], check=True)


def _function(name: str) -> str:
    if name == "cudaGetDeviceCount":
        return f"long {name}(int *count) {{ *count = 1; return 0; }}"
    given = str(NO_DEVICE)
    if re.search(r"Error(Name|String)|Status(Name|String)", name):
        given = '(long)"no device"'
    elif re.search(r"_INTERNAL$|^getPluginRegistry$", name):
        given = "(long)&object"
    return f"long {name}(void) {{ return {given}; }}"


def ask(python: Path, folder: Path, provider: str, options: dict[str, str]) -> str:
    """Return ONNX Runtime's message about these options."""
    model = ROOT / "models" / "digits" / "1" / "model.onnx"
    arguments = [str(folder), str(model), json.dumps([provider, options]), json.dumps(LIBRARIES)]
    found = subprocess.run([str(python), "-c", ASK, *arguments], capture_output=True, text=True, check=False)
    lines = found.stdout.strip().splitlines()
    if found.returncode or not lines:
        return f"died: {found.returncode} {found.stderr[-300:]}"
    return " ".join(str(json.loads(lines[-1])).split())


def ours() -> list[tuple[str, dict[str, str]]]:
    """Return every set of options that Jitney uses."""
    ports = [TensorSpec("image", "FP32", (-1, 1, 28, 28))]
    gpus = [GpuOptions(graphs=graphs) for graphs in (True, False)]
    gpus += [GpuOptions(precision=precision, cache=ROOT) for precision in ("fp16", "int8")]
    asked = [providers.provider_options(name, gpu, ports, gpu.cache) for gpu in gpus for name in ("cuda", "tensorrt")]
    return list({str(one): one for choices in asked for one in choices if isinstance(one, tuple)}.values())


def main(python: Path) -> int:
    """Print a line for each option set; return 0 if all used ones are accepted and all wrong ones refused."""
    where = "import onnxruntime.capi, pathlib; print(pathlib.Path(onnxruntime.capi.__file__).parent)"
    capi = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    wrong = [
        (PROVIDER_NAMES["cuda"], {"nonsense": "1"}),
        (PROVIDER_NAMES["cuda"], {"cudnn_conv_algo_search": "FAST"}),
        (PROVIDER_NAMES["cuda"], {"device_id": "1"}),
        (PROVIDER_NAMES["tensorrt"], {"nonsense": "1"}),
        (PROVIDER_NAMES["tensorrt"], {"trt_fp16_enable": "maybe"}),
    ]
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        build_stand_ins(capi, Path(name))
        for (provider, options), is_ours in [*((one, True) for one in ours()), *((one, False) for one in wrong)]:
            said = ask(python, Path(name), provider, options)
            is_read = bool(re.search(READ, said)) and not REFUSED.search(said)
            is_refused = bool(REFUSED.search(said))
            as_hoped = is_read if is_ours else is_refused
            failures += not as_hoped
            print("ok  " if as_hoped else "FAIL", "read   " if is_read else "refused", provider, json.dumps(options))
            if not as_hoped:
                print("    ", said)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
