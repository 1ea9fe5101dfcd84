"""Models for audio over HTTP, in batches, in bulk runs and offline: exact answers, and errors on their job alone."""

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import bulk, bulks, models
from tests.support.gateways import PNG
from tests.support.model_files import audio
from tests.support.model_files.audio import LABELS, RATE, encode, sine, steps
from tests.support.service import Service

SECTION = "[audio]\nsample_rate = 16000\n"
LEVELS = f'task = "audio-embedding"\nmax_wait_ms = 20\n{SECTION}max_seconds = 2.0\n[embedding]\nnormalize = false'
LOUDNESS = (
    f'task = "audio-classification"\n{SECTION}fit = "pad-or-cut"\n'
    '[classification]\nlabels = "labels.txt"\nsoftmax = false\ntop_k = 3'
)
FRAMES = f'task = "audio-classification"\nbatch_axis = "none"\n{SECTION}[classification]\nsoftmax = false'
MASKED = f'task = "audio-embedding"\nmax_wait_ms = 20\n{SECTION}[embedding]\nnormalize = false\n'
MASKED += '[inputs.x]\npad_axis = 1\n[inputs.mask]\nfill = "mask"'
# A task of one's own that takes audio, with a model that doubles 4 numbers.
QUARTERS = """
import numpy as np
from jitney import Task, decode_audio


class Quarters(Task):
    kinds = frozenset({"audio"})

    def preprocess(self, kind, data, parameters):
        samples = decode_audio(data, 8000, 10 * 8000).samples
        return {"x": np.array([part.max() for part in np.array_split(samples, 4)], np.float32)}

    def postprocess(self, outputs, parameters):
        return {"peaks": outputs["y"].tolist()}
"""
TOO_LONG = ("audio_too_long", "the audio lasts longer than 2 s, the limit")
DAMAGED = "data is damaged or truncated and cannot be decoded"
BAD = {  # what the worker refuses
    "hour.flac": (encode(np.zeros(3_600_000, np.int16), 1000, "FLAC"), TOO_LONG),
    "empty.wav": (encode(np.zeros(0)), ("invalid_audio", "the audio has no samples")),
    "slow.wav": (
        encode(sine(440), 1),
        ("invalid_audio", "the audio has a sample rate of 1 Hz; allowed: 1000 to 384000"),
    ),
    "fast.wav": (
        encode(sine(440), 10_000_000),
        ("invalid_audio", "the audio has a sample rate of 10000000 Hz; allowed: 1000 to 384000"),
    ),
    "wide.wav": (encode(np.zeros((9, 255))), ("invalid_audio", "the audio has 255 channels; allowed: 1 to 8")),
    "cut.flac": (encode(sine(440), RATE, "FLAC")[:5000], ("invalid_audio", f"the FLAC {DAMAGED}")),
    "broken.mp3": (b"\xff\xfb\x90\x64" + b"\xaa" * 5000, ("invalid_audio", f"the MP3 {DAMAGED}")),
    "head.wav": (steps(0.5)[:30], ("invalid_audio", f"the WAV {DAMAGED}")),
}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    audio.statistics(folder, "levels", LEVELS)
    loudness = audio.statistics(folder, "loudness", LOUDNESS, RATE)
    (loudness / "labels.txt").write_text("\n".join(LABELS))
    audio.framed(folder, "frames", FRAMES)
    audio.masked(folder, "masked", MASKED)
    own = models.doubling(folder, "own", 'task = "quarters.py:Quarters"')
    (own / "quarters.py").write_text(QUARTERS)
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir) as started:
        yield started


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def submit(service: Service, model: str, data: bytes, **fields: Any) -> dict[str, Any]:
    """The job, or the problem, that a synchronous submit answers."""
    job = {"model": model, "input": {"audio": text_of(data)}, **fields}
    body: dict[str, Any] = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    return body


def vector(mean: float, largest: float, smallest: float, seconds: float) -> dict[str, Any]:
    return {"embedding": [mean, largest, smallest], "dimensions": 3, "seconds": seconds, "truncated": False}


def best(*scores: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"label": name, "index": LABELS.index(name), "probability": score} for name, score in scores]


def test_each_task_answers(service: Service) -> None:
    assert submit(service, "levels", steps(0.5, -0.25))["output"] == vector(0.125, 0.5, -0.25, 0.5)
    assert submit(service, "loudness", steps(0.5, -0.25))["output"] == {
        "predictions": best(("quiet", 0.5), ("loud", 0.0625), ("even", -0.25)),
        "seconds": 0.5,
        "truncated": False,
    }
    longer = submit(service, "loudness", steps(0.5, 0.5, 0.5, 0.5, -1), parameters={"top_k": 1})["output"]
    assert longer == {"predictions": best(("loud", 0.5)), "seconds": 1.0, "truncated": True}
    framed = submit(service, "frames", steps(0.125, 0.25), parameters={"top_k": 2})["output"]
    assert [each["probability"] for each in framed["predictions"]] == [0.75, 0.375]
    assert submit(service, "own", steps(0.5, -0.25, 0.125, 1 / 8))["output"]["peaks"][:3] == pytest.approx(
        [1, 0, 0.25], abs=0.15
    )


@pytest.mark.parametrize(
    ("file_format", "encoding"),
    [("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
)
def test_each_format_is_read_mixed_and_resampled(service: Service, file_format: str, encoding: str | None) -> None:
    both = np.stack([sine(1000, 1, 48_000, 0.5), sine(1000, 1, 48_000, 0.25)], axis=1)
    output = submit(service, "levels", encode(both, 48_000, file_format, encoding))["output"]
    mean, largest, smallest = output["embedding"]
    assert (mean, output["seconds"]) == (pytest.approx(0, abs=1e-3), 1)
    assert (largest, smallest) == (pytest.approx(0.375, rel=0.05), pytest.approx(-0.375, rel=0.05))


@pytest.mark.parametrize("content_type", ["audio/wav", "audio/x-wav; rate=16000", "application/octet-stream"])
def test_a_raw_body_is_audio(service: Service, content_type: str) -> None:
    job = service.submit(steps(0.5, -0.25), content_type, wait=10, model="levels").json()
    assert job["output"] == vector(0.125, 0.5, -0.25, 0.5)


def test_a_form_may_have_audio(service: Service) -> None:
    files = {"audio": ("a.wav", steps(0.5), "audio/wav")}
    answer = service.http.post("/predict", files=files, data={"model": "loudness"}).json()
    assert answer["predictions"][0] == {"label": "quiet", "probability": 0.5}
    job = service.http.post("/v1/jobs", files=files, data={"model": "levels"}).json()
    assert service.final(job["id"])["output"] == vector(0.5, 0.5, 0.5, 0.25)
    both = service.http.post("/v1/jobs", files={**files, "image": PNG}, data={"model": "levels"}).json()
    assert both["detail"] == "the form has the fields image and audio: send one of them"


def test_base64_may_be_a_data_url(service: Service) -> None:
    job = {"model": "levels", "input": {"audio": f"data:audio/wav;base64,{text_of(steps(0.5))}"}}
    answered = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    assert answered["output"] == vector(0.5, 0.5, 0.5, 0.25)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (PNG, "audio/wav", 415, "the first bytes are not those of a supported audio format"),
        (PNG, "image/png", 422, "model levels does not accept an image"),
        (b"red", "text/plain", 422, "model levels does not accept text"),
    ],
)
def test_other_inputs_are_refused_at_once(
    service: Service, body: bytes, content_type: str, status: int, message: str
) -> None:
    problem = service.submit(body, content_type, model="levels").json()
    assert (problem["status"], problem["detail"]) == (status, message)


def test_bad_audio_fails_its_own_job_alone(service: Service) -> None:
    jobs = [steps(at / 64, -at / 64) for at in range(48)]
    for at, (data, _) in enumerate(BAD.values()):
        jobs[3 + 5 * at] = data
    jobs[4], jobs[9] = PNG, b""
    body = [{"model": "levels", "input": {"audio": text_of(data)}} for data in jobs]
    body[14]["parameters"] = {"encoding": "text"}
    answered = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=10"}).json()["jobs"]
    errors = {at: (job["error"]["code"], job["error"]["message"]) for at, job in enumerate(answered) if job["error"]}
    assert errors == {
        **{3 + 5 * at: error for at, (_, error) in enumerate(BAD.values())},
        4: ("unsupported_media_type", "the first bytes are not those of a supported audio format"),
        9: ("invalid_audio", "the audio is empty (0 bytes)"),
        14: ("invalid_request", "parameter 'encoding' is 'text'; allowed: float, base64"),
    }
    good = [at for at in range(48) if at not in errors]
    assert [answered[at]["output"] for at in good] == [vector(0, at / 64, -at / 64, 0.5) for at in good]
    assert max(answered[at]["batch_size"] for at in good) > 4


def test_a_run_that_fails_spares_the_neighbours(service: Service) -> None:
    """The model takes whole frames of 160 samples."""
    jobs = [steps(at / 64, each=161 if at == 7 else 160) for at in range(16)]
    body = [{"model": "frames", "input": {"audio": text_of(data)}, "parameters": {"top_k": 1}} for data in jobs]
    answered = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=10"}).json()["jobs"]
    assert [at for at, job in enumerate(answered) if job["error"]] == [7]
    assert answered[7]["error"]["code"] == "inference_failed"
    found = [job["output"]["predictions"][0]["probability"] for at, job in enumerate(answered) if at != 7]
    assert found == [pytest.approx(at / 16, abs=1e-6) for at in range(16) if at != 7]
    letter = service.http.get(f"/v1/deadletters/{answered[7]['id']}/input")
    assert (letter.headers["content-type"], letter.content) == ("audio/wav", jobs[7])


def test_audio_of_different_lengths_runs_together_by_a_mask(service: Service) -> None:
    jobs = [steps(0.5, -0.25, each=100 + 10 * at) for at in range(48)]
    jobs[5] = BAD["wide.wav"][0]
    body = [{"model": "masked", "input": {"audio": text_of(data)}} for data in jobs]
    answered = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=10"}).json()["jobs"]
    assert [at for at, job in enumerate(answered) if job["error"]] == [5]
    good = [job["output"] for at, job in enumerate(answered) if at != 5]
    assert [each["seconds"] for each in good] == [(200 + 20 * at) / RATE for at in range(48) if at != 5]
    assert all(each["embedding"] == pytest.approx([0.125, 0.15625], abs=1e-6) for each in good)
    assert max(job["batch_size"] for job in answered if not job["error"]) > 4


def test_the_same_key_with_other_audio_is_another_request(service: Service) -> None:
    def post(data: bytes) -> tuple[int, Any]:
        job = {"model": "levels", "input": {"audio": text_of(data)}}
        headers = {"idempotency-key": "audio-1", "prefer": "wait=10"}
        answered = service.http.post("/v1/jobs", json=job, headers=headers)
        return answered.status_code, answered.json().get("code")

    assert [post(steps(0.5)), post(steps(0.5)), post(steps(0.25))] == [
        (200, None),
        (200, None),
        (422, "idempotency_mismatch"),
    ]


def test_a_batch_has_lines_with_audio(service: Service) -> None:
    def line(name: str, data: bytes) -> str:
        fields = {"model": "levels", "input": {"audio": text_of(data)}}
        return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/jobs", "body": fields})

    lines = [line(f"good-{at}", steps(at / 64)) for at in range(30)]
    lines[7:7] = [line("wide", BAD["wide.wav"][0]), line("picture", PNG)]
    with bulks.client(service.url) as ai:
        done = bulks.wait_for_end(ai, bulks.start_batch(ai, lines))
        good, bad = bulks.check_batch(ai, done, [json.loads(each)["custom_id"] for each in lines])
    outputs = {each["custom_id"]: each["response"]["body"]["output"] for each in good}
    assert outputs == {f"good-{at}": vector(at / 64, at / 64, at / 64, 0.25) for at in range(30)}
    codes = {each["custom_id"]: each["error"]["code"] for each in bad}
    assert codes == {"wide": "invalid_audio", "picture": "unsupported_media_type"}


def folder_of_files(folder: Path) -> list[str]:
    """Write good and bad files; return the expected code of each by name, empty for the good ones."""
    files = {f"good{at:02}.wav": steps(at / 64) for at in range(40)} | {name: data for name, (data, _) in BAD.items()}
    files["song.flac"] = encode(np.full((4000, 2), 0.5), RATE, "FLAC")
    files["song.mp3"] = encode(sine(440), RATE, "MP3")
    files["picture.wav"] = PNG
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    codes = {name: code for name, (_, (code, _)) in BAD.items()} | {"picture.wav": "unsupported_media_type"}
    return [codes.get(name, "") for name in sorted(files)]


def test_bulk_runs_offline_and_by_the_service_agree(service: Service, models_dir: Path, tmp_path: Path) -> None:
    codes = folder_of_files(tmp_path / "in")
    args = (tmp_path / "in", "-o")
    assert bulk.run(*args, tmp_path / "l.jsonl", "--local", models_dir / "levels").code == 1
    assert bulk.run(*args, tmp_path / "s.jsonl", "--url", service.url, "--model", "levels").code == 1
    local, remote = (bulk.read_complete_rows(tmp_path / name, len(codes)) for name in ("l.jsonl", "s.jsonl"))
    assert [row["error"]["code"] if row["error"] else "" for row in local] == codes
    assert [row["output"] for row in local] == [row["output"] for row in remote]
    for mine, other in zip(local, remote, strict=True):
        if mine["input"] != "picture.wav":  # the gateway has no decoder, and says less
            assert mine["error"] == other["error"]
    found = {row["input"]: row["output"] for row in local}
    assert [found[f"good{at:02}.wav"] for at in range(40)] == [
        vector(at / 64, at / 64, at / 64, 0.25) for at in range(40)
    ]
    assert found["song.flac"] == vector(0.5, 0.5, 0.5, 0.25)


def test_bulk_runs_take_jobs_archives_and_single_files(service: Service, models_dir: Path, tmp_path: Path) -> None:
    lines: list[Any] = [{"input": {"audio": text_of(steps(at / 64))}} for at in range(20)]
    lines[3] = {"input": {"audio": 5}}
    lines[4] = {"audio": "one.wav"}
    (tmp_path / "one.wav").write_bytes(steps(0.5))
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    with tarfile.open(tmp_path / "files.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("one.wav")
        member.size = len(steps(0.5))
        archive.addfile(member, io.BytesIO(steps(0.5)))
    half = vector(0.5, 0.5, 0.5, 0.25)
    local, remote = ("--local", models_dir / "levels"), ("--url", service.url, "--model", "levels")
    for name, target in (("local", local), ("service", remote)):
        assert bulk.run(tmp_path / "jobs.jsonl", "-o", tmp_path / f"{name}.jsonl", *target).code == 1
        rows = bulk.read_complete_rows(tmp_path / f"{name}.jsonl", 20)
        assert [at for at, row in enumerate(rows) if row["error"]] == [3]
        assert [rows[at]["output"] for at in (4, 5)] == [half, vector(5 / 64, 5 / 64, 5 / 64, 0.25)]
        for source in ("one.wav", "files.tar.gz"):
            out = tmp_path / f"{name}-{source}.jsonl"
            assert bulk.run(tmp_path / source, "-o", out, *target).code == 0
            assert bulk.read_complete_rows(out, 1)[0]["output"] == half
