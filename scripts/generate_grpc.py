"""Generates the Python code of the gRPC protocol from its `.proto` file: `python scripts/generate_grpc.py`.

The checks of the versions of protobuf and grpcio are left out of the code: it runs with protobuf 6.33 and later.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("api") / "grpc_server" / "generated"
PROTO = FOLDER / "open_inference.proto"
_PROTOBUF_CHECK = re.compile(r"^_runtime_version\.Validate.*?^\)\n", re.DOTALL | re.MULTILINE)
_PROTOBUF_IMPORT = "from google.protobuf import runtime_version as _runtime_version\n"
_GRPC_CHECK = re.compile(r"^GRPC_GENERATED_VERSION = .*?^    \)\n", re.DOTALL | re.MULTILINE)


def generate(folder: Path) -> list[Path]:
    """Write the code to `folder`, at its path from the root of the project; return the files."""
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I.",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
    ]
    subprocess.run([*command, str(PROTO)], cwd=ROOT, check=True)
    files = [folder / FOLDER / f"{PROTO.stem}_pb2{kind}.py" for kind in ("", "_grpc")]
    for file in files:
        text = file.read_text("utf-8").replace(_PROTOBUF_IMPORT, "")
        file.write_text(_GRPC_CHECK.sub("", _PROTOBUF_CHECK.sub("", text)), "utf-8")
    return files


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for file in generate(Path(folder)):
            (ROOT / FOLDER / file.name).write_bytes(file.read_bytes())
            print(FOLDER / file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
