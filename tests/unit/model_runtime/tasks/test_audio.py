"""The tasks for audio: which models they fit, and the exact arrays and answers that they make."""

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.contract.errors import Refused
from model_runtime.audio.decode import load_libraries
from model_runtime.model import load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks import Task, load_task
from model_runtime.tasks.examples import read_own_examples
from model_runtime.tensor_spec import Array, TensorSpec
from tests.support.model_files import audio
from tests.support.model_files.audio import RATE, encode, sine, steps

WAVE = TensorSpec("wave", "FP32", (-1,))
SCORES = TensorSpec("scores", "FP32", (3,))
SECOND = WAVE._replace(shape=(RATE,))


def make(
    wave: TensorSpec = WAVE, output: TensorSpec = SCORES, task: str = "audio-classification", **sections: Any
) -> Task:
    sections["audio"] = {"sample_rate": RATE} | sections.get("audio", {})
    spec = ModelSpec.model_validate({"task": task, **sections})
    return load_task(spec, Path("folder"), [wave], [output])


def prepared(data: bytes, wave: TensorSpec = WAVE, **audio_keys: Any) -> Array:
    (array,) = make(wave, audio=audio_keys).preprocess("audio", data, {}).values()
    return array


@pytest.mark.parametrize(
    ("wave", "sections", "reason"),
    [
        (WAVE._replace(shape=()), {}, 'allowed: one input of [samples] or [1, samples]; batch_axis = "none" if'),
        (WAVE._replace(shape=(2, RATE)), {}, "the model takes wave [2, 16000] for each audio"),
        (WAVE._replace(datatype="INT64"), {}, "the audio input is INT64; allowed: FP16, FP32, FP64, INT16"),
        (WAVE, {"audio": {"sample_rate": None}}, "audio.sample_rate: missing: set the sample rate that"),
        (SECOND, {"audio": {"samples": 99}}, "audio.samples: is 99, but the input has 16000; allowed: 16000"),
        (
            WAVE,
            {"audio": {"fit": "pad"}},
            "audio.fit: it needs a fixed length: set samples too",
        ),
        (SECOND, {"audio": {"max_seconds": 9.0}}, "audio.max_seconds: the model takes a fixed number of samples, "),
        (
            WAVE._replace(datatype="INT16"),
            {"audio": {"scale": 2.0}},
            "takes INT16 samples; allowed: no normalize, no s",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(wave: TensorSpec, sections: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=re.escape(reason)):
        make(wave, **sections)


@pytest.mark.parametrize(
    ("output", "task", "sections", "reason"),
    [
        (SCORES._replace(shape=(2, 2, 3)), "audio-classification", {}, "numbers for it, or for each of its frames"),
        (SCORES._replace(datatype="BOOL"), "audio-embedding", {}, "the output 'scores' is BOOL [3] for each audio"),
        (SCORES._replace(shape=(-1, -1)), "audio-embedding", {}, "allowed: an output whose last dimension is fixed"),
        (SCORES, "audio-embedding", {"embedding": {"output": "y"}}, "there is no output 'y'; allowed: scores"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    output: TensorSpec, task: str, sections: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(reason)):
        make(output=output, task=task, **sections)


def test_samples_are_those_of_the_file() -> None:
    assert prepared(steps(0.5, -0.25)).tolist() == [0.5] * 4000 + [-0.25] * 4000
    assert prepared(steps(0.5), WAVE._replace(shape=(1, -1))).shape == (1, 4000)
    half = prepared(steps(0.5), WAVE._replace(datatype="FP16"))
    assert half.dtype == np.float16
    assert half[0] == 0.5
    whole = prepared(steps(0.5, -1, 32767 / 32768), WAVE._replace(datatype="INT16"))
    assert whole.dtype == np.int16
    assert whole[::4000].tolist() == [16384, -32768, 32767]
    assert prepared(steps(0.5, -1), scale=32768.0)[::4000].tolist() == [16384, -32768]


def test_normalized_samples_have_mean_0_and_variance_1() -> None:
    data = encode(sine(440) + np.float32(0.25), RATE, "WAV", "FLOAT")
    array = prepared(data, normalize=True)
    assert (array.mean(), array.var()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, rel=1e-5))
    samples = sine(440) + np.float32(0.25)
    assert np.allclose(array, (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7), atol=1e-6)
    padded = prepared(data, WAVE._replace(shape=(2 * RATE,)), normalize=True)
    assert np.array_equal(padded[:RATE], array)
    assert not padded[RATE:].any()
    assert not prepared(steps(0, 0), normalize=True).any()


def test_a_fixed_length_is_padded_cut_or_refused() -> None:
    short, long = steps(0.5, 0.5), steps(*[0.5] * 5)
    padded = prepared(short, SECOND)
    assert padded.tolist() == [0.5] * 8000 + [0] * 8000
    assert prepared(long, SECOND, fit="pad-or-cut").tolist() == [0.5] * RATE
    assert len(prepared(short, samples=9000)) == 9000
    for data, fit, code, message in (
        (long, "pad", "audio_too_long", "the audio lasts longer than 1 s, the limit"),
        (short, "exact", "invalid_input", "the audio has 8000 samples at 16000 Hz; the model takes 16000"),
    ):
        with pytest.raises(Refused) as caught:
            prepared(data, SECOND, fit=fit)
        assert (caught.value.code, caught.value.message) == (code, message)
    with pytest.raises(Refused, match=r"longer than 0\.5 s"):
        prepared(long, max_seconds=0.5)


def test_answers_say_how_much_of_the_audio_the_model_saw() -> None:
    task = make(SECOND, audio={"fit": "pad-or-cut"}, classification={"softmax": False})
    for data, seconds, truncated in ((steps(0.5), 0.25, False), (steps(*[0.5] * 5), 1, True)):
        parameters: dict[str, Any] = {"top_k": 1}
        task.preprocess("audio", data, parameters)
        answer = task.postprocess({"scores": np.array([0.1, 0.7, 0.2], np.float32)}, parameters)
        best = {"label": "1", "index": 1, "probability": 0.7}
        assert answer == {"predictions": [best], "seconds": seconds, "truncated": truncated}


def test_frames_are_averaged() -> None:
    task = make(output=SCORES._replace(shape=(-1, 3)), task="audio-embedding", embedding={"normalize": False})
    parameters: dict[str, Any] = {"encoding": "base64"}
    task.preprocess("audio", steps(0.5), parameters)
    frames = np.array([[1, 2, 3], [3, 2, 5]], np.float32)
    packed = task.postprocess({"scores": frames}, parameters)["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == [2, 2, 4]
    with pytest.raises(Refused, match="the model returned no frame for this audio"):
        task.postprocess({"scores": frames[:0]}, parameters)


@pytest.mark.parametrize(
    ("task", "parameters", "message"),
    [
        ("audio-classification", {"top_k": 4}, "parameter 'top_k' is 4; allowed: a whole number from 1 to 3"),
        ("audio-classification", {".seen": {}}, "unknown parameter: '.seen'; allowed: top_k"),
        ("audio-embedding", {"encoding": 1}, "parameter 'encoding' is 1; allowed: float, base64"),
    ],
)
def test_other_parameters_are_refused(task: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        make(task=task).preprocess("audio", steps(0.5), parameters)
    assert caught.value.message == message


def test_labels_must_be_as_many_as_classes(tmp_path: Path) -> None:
    toml = 'task = "audio-classification"\n[audio]\nsample_rate = 16000\n[classification]\nlabels = "labels.txt"'
    folder = audio.statistics(tmp_path, toml=toml)
    (folder / "labels.txt").write_text("a\nb")
    (listed,) = list_models(tmp_path)
    assert isinstance(listed, ModelFolder)
    with pytest.raises(ModelError, match="2 labels, but the model has 3 classes; allowed: one line per class"):
        load_model(listed)


@pytest.mark.parametrize("samples", ["samples", RATE])
def test_a_model_is_checked_and_measured_with_noise(tmp_path: Path, samples: int | str) -> None:
    audio.statistics(tmp_path, toml='task = "audio-embedding"\n[audio]\nsample_rate = 16000', samples=samples)
    (listed,) = list_models(tmp_path)
    assert isinstance(listed, ModelFolder)
    card = load_model(listed).card()
    assert (card["kinds"], card["batchable"], card["checked"]) == (["audio"], True, True)


@pytest.mark.parametrize("outputs", ["", 'outputs = ["y"]\n'])
def test_lengths_are_padded_only_by_a_mask_and_without_frames(tmp_path: Path, outputs: str) -> None:
    toml = f'task = "audio-embedding"\n{outputs}[audio]\nsample_rate = 16000\n'
    padded = toml + '[inputs.x]\npad_axis = 1\n[inputs.mask]\nfill = "mask"'
    audio.masked(tmp_path, toml=padded, frames=True)
    (listed,) = list_models(tmp_path)
    assert isinstance(listed, ModelFolder)
    if not outputs:
        with pytest.raises(ModelError, match="padding changes an answer"):
            load_model(listed)
        return
    model = load_model(listed)
    assert model.padding is not None
    assert model.padding.is_used


def test_without_the_libraries_the_model_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)  # as if it was not installed
    load_libraries.cache_clear()
    with pytest.raises(ModelError) as caught:
        make()
    assert "model.toml: task: audio needs the packages soundfile and soxr: " in str(caught.value)
    assert str(caught.value).endswith("allowed: jitney[audio], which has them")


def test_examples_are_audio_files(tmp_path: Path) -> None:
    folder = audio.statistics(tmp_path, toml='task = "audio-embedding"\n[audio]\nsample_rate = 16000')
    (folder / "examples").mkdir()
    (folder / "examples" / "a.wav").write_bytes(steps(0.5, each=2))
    (folder / "examples" / "b.json").write_text(json.dumps({"audio": base64.b64encode(steps(0.25, each=2)).decode()}))
    task = make(task="audio-embedding")
    rows = read_own_examples(folder, task, [WAVE])
    assert [row["wave"].tolist() for row in rows] == [[0.5, 0.5], [0.25, 0.25]]
    (folder / "examples" / "c.wav").write_text("no sound")
    with pytest.raises(ModelError, match="is not an example of the model's input: not audio"):
        read_own_examples(folder, task, [WAVE])
