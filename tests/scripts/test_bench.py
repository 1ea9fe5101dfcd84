"""`jitney bench` as a user runs it, on a whole service; and what it says where there is nothing to measure."""

import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from scripts.bench import command, main
from scripts.bench.connection import Address
from scripts.bench.errors import CannotMeasure
from scripts.bench.inputs import gather
from scripts.bench.target import Target
from tests.support.service import ROOT, Service

QUICK = ["--seconds", "0.3", "--rounds", "1"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_it_measures_a_service_and_the_raw_model_beside_it(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", service.url, *QUICK, "--concurrency", "1,8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"]
    assert found["model"]["name"] == "digits"
    assert found["inputs"]["kind"] == "image"
    assert found["plan"] | {"mode": ["wait"], "concurrency": [1, 8], "rate": [], "rounds": 1} == found["plan"]
    assert {"cpus", "system", "versions"} == found["machine"].keys()
    assert found["raw"]["raw_best"] == max(found["raw"]["rates"].values()) > 0
    assert found["raw"]["serial_limit"] < found["raw"]["raw_best"]
    assert [one["concurrency"] for one in found["service"]] == [1, 8]
    for one in found["service"]:
        assert one["answers"] > 0
        assert one["failures"] == {}
        assert one["p50_ms"] <= one["p90_ms"] <= one["p99_ms"]
        assert 1 <= one["mean_batch"] <= one["concurrency"] + 0.01
        assert one["ratio_raw_best"] == pytest.approx(one["throughput"] / found["raw"]["raw_best"])
        assert 0 < one["stages_ms"]["infer"] < one["stages_ms"]["latency"]
    assert any("closed loop" in line for line in found["method"])


def test_without_the_models_folder_the_table_says_that_there_is_no_raw_side(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--concurrency", "2", "--models-dir", str(tmp_path), "--input", "samples/digits/7_01.png"]
    assert main(["--url", service.url, *QUICK, *options]) == 0
    out = capsys.readouterr().out
    assert "model digits version 1" in out
    assert "WARNING: no raw side to compare with: no such model" in out
    assert "how it was measured" in out


def test_ctrl_c_prints_what_was_measured_until_then(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ctrl_c = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))

    def say(line: str) -> None:
        if line.startswith("round 1 of 1000: c=1:"):
            ctrl_c.start()

    monkeypatch.setattr(command, "_say", say)
    assert main(["--url", service.url, "--seconds", "0.3", "--rounds", "1000", "--concurrency", "1", "--json"]) == 130
    found = json.loads(capsys.readouterr().out)
    assert not found["complete"]
    assert found["service"][0]["answers"] > 0


def test_a_service_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unheard:  # bound, and does not listen
        unheard.bind(("127.0.0.1", 0))
        assert main(["--url", f"http://127.0.0.1:{unheard.getsockname()[1]}"]) == 2
    said = capsys.readouterr()
    assert "nothing answers at http://127.0.0.1:" in said.err
    assert not said.out


def test_an_unknown_model_is_answered_with_the_known_ones(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", service.url, "--model", "cats"]) == 2
    assert "has no model 'cats'; it serves: digits" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "said"), [("nowhere.png", "No such file"), ("Makefile", "is not an image")])
def test_a_file_that_can_not_be_sent(
    service: Service, capsys: pytest.CaptureFixture[str], file: str, said: str
) -> None:
    assert main(["--url", service.url, "--input", file]) == 2
    assert said in capsys.readouterr().err


def test_an_input_that_the_model_refuses_is_named(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes((ROOT / "samples/digits/7_01.png").read_bytes()[:60])
    assert main(["--url", service.url, "--input", str(cut)]) == 2
    assert f"no result for {cut}: the job failed: invalid_image" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--concurrency", "0"], ["--concurrency", "1,x"], ["--seconds", "-1"]])
def test_options_are_checked(options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)


def tensor_model(datatype: str, raw_bytes: int | None) -> Target:
    port = {"name": "x", "datatype": datatype, "shape": [4]}
    return Target(Address("a", 1, ""), "t", {"kinds": ["tensors"], "inputs": [port], "raw_bytes": raw_bytes})


@pytest.mark.parametrize(("datatype", "size"), [("FP32", 16), ("INT64", 32), ("BOOL", 4), ("FP16", 8)])
def test_a_tensor_model_gets_random_values_that_any_model_can_take(datatype: str, size: int) -> None:
    made = gather(tensor_model(datatype, size), [])
    assert made.kind == "raw"
    assert {len(body) for body in made.bodies} == {size}
    assert len(set(made.bodies)) > 1
    assert made.origin == f"random {datatype} values"


def test_a_tensor_file_of_another_size_and_a_model_of_free_shapes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"123")
    with pytest.raises(CannotMeasure, match="has 3 bytes, model t takes 16"):
        gather(tensor_model("FP32", 16), [file])
    with pytest.raises(CannotMeasure, match=r"model t takes x FP32 \[4\]"):
        gather(tensor_model("FP32", None), [])
