"""`jitney bench` as a user runs it, on a whole service; and its messages where it cannot measure."""

import base64
import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from cli.bench import command
from cli.bench.command import main
from cli.bench.errors import CannotMeasure
from cli.bench.load import service_cpu
from cli.bench.load.connection import Address
from cli.bench.load.inputs import gather_inputs, ndjson_jobs
from cli.bench.load.target import Target
from tests.support.model_files.audio import steps
from tests.support.service import ROOT, Service

QUICK = ["--seconds", "0.3", "--rounds", "1"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(service_cpu, "TICK_S", 0.2)  # the service's own tick is 0.1 s


def test_bench_measures_a_service_and_the_raw_model(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
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
        assert one["cpu_us"].keys() == {"gateway", "worker", "redis", "all"}
        assert min(one["cpu_us"].values()) > 0
    assert any("closed loop" in line for line in found["method"])


def test_an_open_loop_and_polling_are_measured_and_drawn(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "bench.png"
    options = ["--mode", "wait,poll", "--rate", "40", "--plot", str(picture), "--json"]
    assert main(["--url", service.url, *QUICK, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["mode"], one["rate"], one["concurrency"]) for one in found["service"]] == [
        ("wait", 40, None),
        ("poll", 40, None),
    ]
    for one in found["service"]:
        assert one["answers"] + one["unsent"] == pytest.approx(12, abs=1)
        assert one["throughput"] > 0
        assert (one["refused"], one["failures"]) == ({}, {})
    assert any("open loop" in line for line in found["method"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_every_mode_and_load_with_its_stages_and_cpu_time(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--mode", "poll", "--concurrency", "2", "--rate", "30", "--rounds", "2", "--seconds", "0.2"]
    assert main(["--url", service.url, *options]) == 0
    tables = [part.splitlines() for part in capsys.readouterr().out.split("\n\n")]
    heads = [table[0].split()[:3] for table in tables[1:3]]
    assert heads == [["mode", "in", "flight"], ["mode", "jobs", "due"]]
    for table in tables[3:5]:
        assert [line.split()[:2] for line in table[2:]] == [["poll", "2"], ["poll", "30/s"]]
    assert tables[4][1].split() == ["mode", "load", "gateway", "worker", "redis", "all"]


def test_refusals_of_a_full_service_are_counted_separately(capsys: pytest.CaptureFixture[str]) -> None:
    with Service(env={"JITNEY_MAX_JOBS": "3"}) as service:
        assert main(["--url", service.url, *QUICK, "--concurrency", "32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,) = found["service"]
    assert one["answers"] > 0
    assert one["refused"].keys() == {"503 queue_full"}
    assert one["failures"] == {}
    assert "503 queue_full" in found["first_problem"]
    assert any(line.startswith("c=32: refused: ") for line in found["warnings"])


def test_a_missing_matplotlib_is_reported_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["--url", "http://127.0.0.1:9", "--plot", "bench.png"]) == 2
    said = capsys.readouterr()
    assert said.err == ('jitney bench: --plot needs matplotlib: pip install -e ".[plot]" in the checkout\n')


def test_an_unwritable_picture_is_reported_before_the_first_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nowhere" / "bench.png"
    assert main(["--url", "http://127.0.0.1:9", "--plot", str(file)]) == 2
    assert f"--plot {file}: cannot be written" in capsys.readouterr().err


def test_the_table_says_that_the_raw_side_needs_the_models_folder(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--concurrency", "2", "--models-dir", str(tmp_path), "--input", "samples/digits/7_01.png"]
    assert main(["--url", service.url, *QUICK, *options]) == 0
    out = capsys.readouterr().out
    assert "model digits version 1" in out
    assert "WARNING: no raw measurement to compare with: no such model" in out
    assert "how it was measured" in out


@pytest.mark.parametrize(("load", "first"), [(["--concurrency", "1"], "c=1"), (["--rate", "20"], "20/s")])
def test_ctrl_c_prints_the_measurements_so_far(
    service: Service,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    load: list[str],
    first: str,
) -> None:
    ctrl_c = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))

    def say(line: str) -> None:
        if line.startswith(f"round 1 of 50: {first}:"):
            ctrl_c.start()

    monkeypatch.setattr(command, "_print_message", say)
    assert main(["--url", service.url, "--seconds", "0.3", "--rounds", "50", *load, "--json"]) == 130
    found = json.loads(capsys.readouterr().out)
    assert not found["complete"]
    assert found["service"][0]["answers"] > 0


def test_an_unreachable_service_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unheard:  # bound, and does not listen
        unheard.bind(("127.0.0.1", 0))
        assert main(["--url", f"http://127.0.0.1:{unheard.getsockname()[1]}"]) == 2
    said = capsys.readouterr()
    assert "cannot reach the service at http://127.0.0.1:" in said.err
    assert not said.out


def test_an_unknown_model_is_answered_with_the_known_ones(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", service.url, "--model", "cats"]) == 2
    assert "has no model 'cats'; it serves: digits" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "said"), [("nowhere.png", "No such file"), ("Makefile", "is not an image")])
def test_a_file_that_cannot_be_sent_is_reported(
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


@pytest.mark.parametrize(
    "options",
    [
        ["--concurrency", "0"],
        ["--concurrency", "1,x"],
        ["--seconds", "-1"],
        ["--seconds", "nan"],
        ["--rate", "0"],
        ["--rate", "10,,20"],
        ["--mode", "wait,later"],
        ["--bulk-size", "0"],
        ["--connections", "5000"],
        ["--plot", "bench.jpg"],
    ],
)
def test_invalid_options_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)


def tensor_model(datatype: str, raw_bytes: int | None) -> Target:
    port = {"name": "x", "datatype": datatype, "shape": [4]}
    return Target(Address("a", 1, ""), "t", {"kinds": ["tensors"], "inputs": [port], "raw_bytes": raw_bytes})


@pytest.mark.parametrize(("datatype", "size"), [("FP32", 16), ("INT64", 32), ("BOOL", 4), ("FP16", 8)])
def test_a_tensor_model_gets_random_values_that_any_model_accepts(datatype: str, size: int) -> None:
    made = gather_inputs(tensor_model(datatype, size), [])
    assert made.kind == "raw"
    assert {len(body) for body in made.bodies} == {size}
    assert len(set(made.bodies)) > 1
    assert made.origin == f"random {datatype} values"


def test_a_tensor_file_of_another_size_and_a_model_of_free_shapes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"123")
    with pytest.raises(CannotMeasure, match="has 3 bytes, model t needs 16"):
        gather_inputs(tensor_model("FP32", 16), [file])
    free = {"name": "x", "datatype": "FP32", "shape": [-1]}
    target = Target(Address("a", 1, ""), "t", {"kinds": ["tensors"], "inputs": [free], "raw_bytes": None})
    with pytest.raises(CannotMeasure, match=r"model t takes x FP32 \[-1\]; allowed: --input FILE.jsonl"):
        gather_inputs(target, [])


def test_a_model_for_audio_is_measured_with_files(tmp_path: Path) -> None:
    file, text = tmp_path / "tone.wav", tmp_path / "page.wav"
    file.write_bytes(steps(0.5))
    text.write_bytes(b"no sound")
    target = Target(Address("a", 1, ""), "sounds", {"kinds": ["audio"], "inputs": [], "raw_bytes": None})
    made = gather_inputs(target, [file])
    assert (made.kind, made.content_types, made.bodies) == ("audio", ["audio/wav"], [steps(0.5)])
    (line,) = ndjson_jobs(target, made)
    assert json.loads(line)["input"] == {"audio": base64.b64encode(steps(0.5)).decode()}
    with pytest.raises(CannotMeasure, match=r"page\.wav is not audio in a supported format"):
        gather_inputs(target, [text])
    with pytest.raises(CannotMeasure, match="model sounds takes audio files: give files with --input FILE"):
        gather_inputs(target, [])
