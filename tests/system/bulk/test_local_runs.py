"""`jitney bulk run --local`: the worker's pipeline in one process, without a service; it resumes too."""

import json
import struct
from pathlib import Path

import numpy as np

from tests.support import bulk, models
from tests.support.odd_images import expected_answers
from tests.support.service import DIGITS

LINES = 3000
MODEL = bulk.DIGITS_MODEL


def test_a_folder_becomes_a_results_file(tmp_path: Path) -> None:
    done = bulk.run(DIGITS[0].parent, "-o", tmp_path / "r.jsonl", "--local", MODEL)
    assert done.code == 0, done
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", len(DIGITS))
    assert [row["output"]["predictions"][0]["label"] for row in found] == [path.name[0] for path in DIGITS]


def test_a_model_is_chosen_by_name_from_a_models_folder(tmp_path: Path) -> None:
    args = (DIGITS[0].parent, "-o", tmp_path / "r.jsonl", "--local", MODEL.parent)
    refused = bulk.run(*args)
    assert (refused.code, "models" in refused.said) == (2, True), refused
    assert bulk.run(*args, "--model", "digits").code == 0


def test_odd_images_fail_alone_each_with_its_code(shared_data: Path, tmp_path: Path) -> None:
    done = bulk.run(shared_data / "odd", "-o", tmp_path / "r.jsonl", "--local", MODEL)
    assert done.code == 1, done
    expected = expected_answers(shared_data)
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", len(expected))
    assert {row["input"]: (row["error"] or {}).get("code") for row in found} == {
        name: one.get("code") for name, one in expected.items()
    }


def test_a_run_killed_repeatedly_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    labels = bulk.digits_table(tmp_path / "in.jsonl", LINES)
    args = (tmp_path / "in.jsonl", "-o", tmp_path / "r.jsonl", "--local", MODEL)
    kills = [bulk.kill_after(tmp_path / "r.jsonl", lines, *args) for lines in (1, 500, 1200)]
    done = bulk.run(*args)
    assert (done.code, kills) == (0, [True] * 3), done
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", LINES)
    assert [row["output"]["predictions"][0]["label"] for row in found] == labels


def test_a_local_run_gives_the_same_results_as_a_service(service: object, tmp_path: Path) -> None:
    bulk.digits_table(tmp_path / "in.jsonl", 300)
    assert bulk.run(tmp_path / "in.jsonl", "-o", tmp_path / "l.jsonl", "--local", MODEL).code == 0
    url = service.url  # type: ignore[attr-defined]
    assert bulk.run(tmp_path / "in.jsonl", "-o", tmp_path / "s.jsonl", "--url", url).code == 0
    for here, there in zip(
        bulk.read_complete_rows(tmp_path / "l.jsonl", 300),
        bulk.read_complete_rows(tmp_path / "s.jsonl", 300),
        strict=True,
    ):
        labels = [[one["label"] for one in row["output"]["predictions"][:1]] for row in (here, there)]
        assert labels[0] == labels[1]


def test_jobs_of_several_rows_are_joined_and_bad_ones_fail_alone(tmp_path: Path) -> None:
    model = models.doubling(tmp_path / "models", toml='task = "tensor"\nmax_batch = 8\nmax_rows = 20')

    def job(rows: object, *shape: int) -> str:
        size = int(np.prod(shape))
        x = {"datatype": "FP32", "shape": shape, "data": list(range(size))}
        return json.dumps({"rows": rows, "input": {"tensors": {"x": x}}}) + "\n"

    lines = [job(20, 20, 4), job(None, 4), job(1, 1, 4), job(21, 21, 4), job(0, 4), job("2", 2, 4), job(3, 2, 4)]
    (tmp_path / "jobs.jsonl").write_text("".join(lines * 10))
    done = bulk.run(tmp_path / "jobs.jsonl", "-o", tmp_path / "j.jsonl", "--local", model)
    found = bulk.read_complete_rows(tmp_path / "j.jsonl", 70)
    assert (done.code, bulk.count_error_codes(found)) == (1, {"invalid_request": 30, "invalid_input": 10})
    for first in range(0, 70, 7):
        many, plain, one = (row["output"]["tensors"]["y"] for row in found[first : first + 3])
        assert (many["shape"], plain["shape"], one["shape"]) == ([20, 4], [4], [1, 4])
        assert many["data"] == [2 * n for n in range(80)]
    assert "rows must be a whole number from 1 to 20" in found[3]["error"]["message"]


def test_tensors_are_read_as_bytes_or_as_jobs(tmp_path: Path) -> None:
    model = models.doubling(tmp_path / "models")
    (tmp_path / "in").mkdir()
    for number in range(10):
        (tmp_path / "in" / f"{number}.bin").write_bytes(struct.pack("<4f", *[number] * 4))
    (tmp_path / "in" / "short.bin").write_bytes(b"123")
    done = bulk.run(tmp_path / "in", "-o", tmp_path / "r.jsonl", "--local", model)
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", 11)
    assert (done.code, bulk.count_error_codes(found)) == (1, {"invalid_input": 1})
    assert [row["output"]["tensors"]["y"]["data"] for row in found[:10]] == [[2 * n] * 4 for n in range(10)]
    x = {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
    jobs = [{"id": "a", "input": {"tensors": {"x": x}}}, {"input": {"tensors": {"x": {"shape": [4]}}}}]
    jobs.append({"input": {"tensors": {"x": {**x, "data": [1]}}}})
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    bulk.run(tmp_path / "jobs.jsonl", "-o", tmp_path / "j.jsonl", "--local", model)
    found = bulk.read_complete_rows(tmp_path / "j.jsonl", 3)
    assert found[0]["output"]["tensors"]["y"]["data"] == [2, 4, 6, 8]
    assert bulk.count_error_codes(found) == {"malformed_line": 1, "invalid_input": 1}


def test_temporary_failures_are_retried_and_the_order_stays(tmp_path: Path) -> None:
    folder = models.doubling(tmp_path / "models", "moody", 'task = "moody.py:Moody"\n[retry]\nbackoff_ms = 50')
    (folder / "moody.py").write_text(
        "from jitney import TensorTask, RetryableError\n"
        "class Moody(TensorTask):\n"
        "    seen = set()\n"
        "    def preprocess(self, kind, data, parameters):\n"
        "        first = data not in self.seen\n"
        "        self.seen.add(data)\n"
        "        if first and data[3] % 2:\n"
        "            raise RetryableError('not now')\n"
        "        return super().preprocess(kind, data, parameters)\n"
    )
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / "in" / f"{number:02}.bin").write_bytes(struct.pack("<4f", *[2.0 ** (number * 2)] * 4))
    done = bulk.run(tmp_path / "in", "-o", tmp_path / "r.jsonl", "--local", folder)
    assert done.code == 0, done
    found = bulk.read_complete_rows(tmp_path / "r.jsonl", 20)
    answers = [np.float32(row["output"]["tensors"]["y"]["data"][0]) for row in found]
    assert answers == [2.0 ** (n * 2 + 1) for n in range(20)]


def test_a_model_that_cannot_be_loaded_is_named(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "model.toml").write_text('task = "tensor"')
    broken = shared_data / "models" / "resnet8-cifar10" / "network.onnx"
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(broken.read_bytes())
    done = bulk.run(DIGITS[0].parent, "-o", tmp_path / "r.jsonl", "--local", tmp_path / "m")
    assert done.code == 2
    assert "ONNX Runtime cannot load it" in done.said
