"""`jitney bench` with texts, rows, pairs and tensors: random ones, the model's own examples, and files of lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.bench.baseline import open_raw_baseline
from cli.bench.command import main
from cli.bench.errors import CannotMeasure
from cli.bench.load import service_cpu
from cli.bench.load.connection import Address
from cli.bench.load.inputs import MAX_INPUTS, gather_inputs
from cli.bench.load.target import Target, find_target
from tests.support.model_files import graphs, tabular, text
from tests.support.service import Service

QUICK = ["--seconds", "0.3", "--rounds", "1", "--concurrency", "8", "--json"]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    text.encoder(folder)
    text.ranker(folder)
    tabular.fares(folder)
    tabular.classifier(folder, "colors")
    summed = folder / "summed"
    shape: list[int | str] = ["N", 4]
    graphs.write(
        summed / "1" / "model.onnx", [graphs.node("Add", ["a", "b"], ["y"])], {"a": shape, "b": shape}, {"y": shape}
    )
    (summed / "model.toml").write_text('task = "tensor"')
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir) as started:
        yield started


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_cpu, "TICK_S", 0.2)


def measure(
    service: Service, models_dir: Path, capsys: pytest.CaptureFixture[str], model: str, *words: str
) -> dict[str, Any]:
    """The report of a measurement with raw, in which every job had an answer."""
    options = ["--url", service.url, "--model", model, "--models-dir", str(models_dir), *QUICK, *words]
    code, said = main(options), capsys.readouterr()
    assert code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    assert found["no_raw"] == ""
    assert found["raw"]["raw_best"] > 0
    assert all(one["answers"] > 0 and one["failures"] == {} for one in found["service"])
    return found


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("encoder", ("text", "random words")),
        ("ranker", ("json", "random words")),
        ("fares", ("json", "random features")),
        ("colors", ("json", "random rows")),
        ("summed", ("json", "random tensors")),
    ],
)
def test_inputs_are_random_without_files(
    service: Service, models_dir: Path, capsys: pytest.CaptureFixture[str], model: str, inputs: tuple[str, str]
) -> None:
    kind, origin = inputs
    found = measure(service, models_dir, capsys, model, "--mode", "wait,poll,bulk", "--bulk-size", "4")
    assert (found["inputs"]["kind"], found["inputs"]["count"], found["inputs"]["origin"]) == (kind, 8, origin)
    assert [one["mode"] for one in found["service"]] == ["wait", "poll", "bulk"]
    assert "raw batches are of the 100% of the inputs whose arrays have the most frequent shape" in found["method"]


def test_lines_of_text_and_of_json(
    service: Service, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("red\n\nblue green\n" + "é" * 3 + " red" * 20 + "\n")
    inputs = measure(service, models_dir, capsys, "encoder", "--input", str(lines))["inputs"]
    assert (inputs["kind"], inputs["count"], inputs["origin"]) == ("text", 3, f"{lines}:1 … {lines}:4")
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"tokens": [1, 4, 2]}\n{"text": "red"}\n{"input": {"text": "a"}, "parameters": {"dimensions": 2}}')
    found = measure(service, models_dir, capsys, "encoder", "--input", str(jobs), "--mode", "wait,bulk")
    assert (found["inputs"]["kind"], found["inputs"]["count"]) == ("json", 3)


def test_the_examples_of_the_model_are_used(
    service: Service, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models_dir / "fares" / "examples"
    folder.mkdir()
    (folder / "a.json").write_text('[{"row": [29, "female", 2]}, {"features": {"age": 1, "sex": "male", "class": 1}}]')
    inputs = measure(service, models_dir, capsys, "fares")["inputs"]
    assert (inputs["count"], inputs["origin"]) == (2, str(folder / "a.json"))
    own = tmp_path / "own.json"
    own.write_text('{"row": [1, "male", 1]}')
    assert measure(service, models_dir, capsys, "fares", "--input", str(own))["inputs"]["count"] == 1


@pytest.mark.parametrize("measured", [3, 512])
def test_a_cap_that_the_service_measured_differently_is_no_other_model(
    service: Service, models_dir: Path, measured: int
) -> None:
    target = find_target(Address.of(service.url), "colors")
    differs = target._replace(card={**target.card, "max_batch": measured})
    side = open_raw_baseline(models_dir, differs, gather_inputs(differs, []))
    assert sorted(side.measure(0.1).rates) == [1, measured]


def test_an_input_that_the_model_refuses_is_named_by_its_line(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"tokens": [4]}\n{"tokens": [11]}\n')
    assert main(["--url", service.url, "--model", "encoder", "--input", str(jobs)]) == 2
    said = capsys.readouterr().err
    assert f"no result for {jobs}:2: the job failed: invalid_input: token id 11 is none of the model's" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", "a.txt:1 is not UTF-8 text"),
        ("a.txt", b"\n\n", "the files have no input"),
        ("a.jsonl", b"{", "a.jsonl:1 is not valid JSON"),
        ("a.jsonl", b"[1]", "a.jsonl:1: an input must be a JSON object"),
        ("a.json", b'{"texts": ["a", "b"]}', "a.json has 2 rows; allowed: one"),
        ("a.json", b'{"words": "a"}', "must be an object with one of the allowed fields"),
        ("a.json", None, "No such file"),
    ],
)
def test_files_that_cannot_be_sent(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CannotMeasure, match=message):
        gather_inputs(text_model(), [file])


def test_of_many_lines_some_are_used(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("".join(f"{at}\n" for at in range(3 * MAX_INPUTS)))
    made = gather_inputs(text_model(), [file])
    assert made.bodies == [b"%d" % at for at in range(0, 3 * MAX_INPUTS, 3)]


def text_model() -> Target:
    card = {"kinds": ["json", "text"], "input_fields": ["texts"], "inputs": [], "raw_bytes": None}
    return Target(Address("a", 1, ""), "t", card)
