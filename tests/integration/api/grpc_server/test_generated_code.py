"""The Python code of the protocol is what scripts/generate_grpc.py makes of its file."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from scripts import generate_grpc


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    kept = [
        generate_grpc.ROOT / generate_grpc.FOLDER / f"{generate_grpc.PROTO.stem}_pb2{kind}.py" for kind in ("", "_grpc")
    ]
    try:
        installed = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no grpcio-tools")
    made = generate_grpc.generate(tmp_path)
    (version,) = re.findall(r"^# Protobuf Python Version: (.+)$", made[0].read_text(), re.MULTILINE)
    if f"Version: {version}\n" not in kept[0].read_text():
        pytest.skip(f"grpcio-tools {installed} generates for protobuf {version}")
    assert [file.read_text() for file in made] == [file.read_text() for file in kept]
