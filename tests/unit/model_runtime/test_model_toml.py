"""The contents of `model.toml`; every refusal names the file, the key and the allowed values."""

import json
import re
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from model_runtime.spec.model_toml import ImageSpec, ModelError, ModelSpec, read_spec
from tests.support.processes import ROOT

WRONG = {
    "a batch axis that is no dimension": ('task = "tensor"\nbatch_axis = "first"', "batch_axis", '"none"'),
    "a batch axis below 0": (
        'task = "tensor"\n[inputs.x]\nbatch_axis = -1',
        "inputs.x.batch_axis",
        "0 (the first dimension)",
    ),
    "a constant that is a date": (
        'task = "tensor"\n[inputs.x]\nvalue = 2020-01-01',
        "inputs.x.value",
        "a number, true or false",
    ),
    "an unknown key of an output": ('task = "tensor"\n[outputs.y]\naxis = 1', "outputs.y.axis", "batch_axis, answer"),
    "an output named twice": ('task = "tensor"\noutputs = ["y", "y"]', "outputs", "names of the outputs"),
    "an input that is no table": ('task = "tensor"\ninputs.x = 1', "inputs.x", "a table of keys"),
    "a key that does not exist": ('task = "tensor"\ntsk = 1', "tsk", "max_batch"),
    "an unknown task": (
        'task = "detection"',
        "task",
        "tensor, text-embedding, text-classification, token-classification, text-ranking, or file.py:ClassName",
    ),
    "a task outside of the folder": ('task = "../x.py:A"', "task", "in the model's folder"),
    "no task": ("max_batch = 4", "task", "image-classification"),
    "a version that is a number": ('task = "tensor"\nversion = 1', "version", 'in quotes, such as "2"'),
    "a provider that does not exist": ('task = "tensor"\nprovider = "gpu"', "provider", "auto, cpu, cuda, tensorrt"),
    "an engine outside of the folder": ('task = "tensor"\nengine = "../x.py:A"', "engine", "in the model's folder"),
    "a precision that is none": ('task = "tensor"\n[tensorrt]\nprecision = "fp8"', "tensorrt.precision", "fp32, fp16"),
    "graphs of a kind": ('task = "tensor"\n[cuda]\ngraphs = 1', "cuda.graphs", "true (record"),
    "a key of CUDA's own": ('task = "tensor"\n[cuda]\ndevice_id = 1', "cuda.device_id", "graphs"),
    "negative threads": ('task = "tensor"\nthreads = -1', "threads", "0 (all CPUs"),
    "a batch of none": ('task = "tensor"\nmax_batch = 0', "max_batch", "1 to 4096"),
    "a batch that is a truth": ('task = "tensor"\nmax_batch = true', "max_batch", "1 to 4096"),
    "buckets that go down": ('task = "tensor"\nbuckets = [4, 1]', "buckets", "ascending"),
    "buckets of none": ('task = "tensor"\nbuckets = []', "buckets", "1 to 4096"),
    "a bucket alone": ('task = "tensor"\nbuckets = 4', "buckets", "such as [1, 4, 16]"),
    "a bucket that is a truth": ('task = "tensor"\nbuckets = [true, 4]', "buckets", "whole numbers"),
    "batching that is a flag": ('task = "tensor"\nbatching = false', "batching", "trust (batched, not checked)"),
    "the key before batching": ('task = "tensor"\ncheck = false', "check", 'batching = "auto" (as check = true)'),
    "no drift": ('task = "tensor"\nmax_drift = 0.0', "max_drift", "above 0"),
    "a wait without end": ('task = "tensor"\nmax_wait_ms = inf', "max_wait_ms", "0 to 60000"),
    "no deadline": ('task = "tensor"\ndeadline_ms = 0', "deadline_ms", "from 1"),
    "no table": ('task = "tensor"\nimage = 3', "image", "[image]"),
    "a preset": ('task = "tensor"\n[image]\npreset = "keras"', "image.preset", "torch, tf, caffe"),
    "a preset that is a list": ('task = "tensor"\n[image]\npreset = ["tf"]', "image.preset", "torch, tf, caffe"),
    "resize by three": ('task = "tensor"\n[image]\nresize = [1, 2, 3]', "image.resize", "[height, width]"),
    "resize by a fraction": ('task = "tensor"\n[image]\nresize = 25.6', "image.resize", "shorter side"),
    "resize without end": ('task = "tensor"\n[image]\nresize = 1000000', "image.resize", "16384"),
    "crop by none": ('task = "tensor"\n[image]\nresize = 9\ncrop = 0', "image.crop", "square"),
    "crop alone": ('task = "tensor"\n[image]\ncrop = 224', "image", "crop needs resize"),
    "crop beyond": ('task = "tensor"\n[image]\nresize = 9\ncrop = 10', "image", "a crop no larger"),
    "a filter": ('task = "tensor"\n[image]\nfilter = "bilinar"', "image.filter", "bilinear"),
    "a colour order": ('task = "tensor"\n[image]\ncolor = "rgb"', "image.color", "RGB, BGR, gray"),
    "scale by nothing": ('task = "tensor"\n[image]\nscale = 0', "image.scale", "above 0"),
    "two means": ('task = "tensor"\n[image]\nmean = [1, 2]', "image.mean", "1 or 3 numbers"),
    "three means for gray": ('task = "tensor"\n[image]\ncolor = "gray"\nmean = [1, 2, 3]', "image", "mean has 3"),
    "division by nothing": ('task = "tensor"\n[image]\nstd = 0', "image.std", "above 0"),
    "a mean that is none": ('task = "tensor"\n[image]\nmean = nan', "image.mean", "1 or 3 numbers"),
    "a layout": ('task = "tensor"\n[image]\nlayout = "CHW"', "image.layout", "NCHW, NHWC"),
    "a background": ('task = "tensor"\n[image]\nbackground = [0, 0, 256]', "image.background", "each 0 to 255"),
    "pixels": ('task = "tensor"\n[image]\nmax_pixels = 9000000000', "image.max_pixels", "178956970"),
    "a key of [image]": ('task = "tensor"\n[image]\nsize = 3', "image.size", "resize"),
    "labels elsewhere": (
        'task = "tensor"\n[classification]\nlabels = "../l"',
        "classification.labels",
        "model's folder",
    ),
    "labels above": ('task = "tensor"\n[classification]\nlabels = ".."', "classification.labels", "model's folder"),
    "softmax": ('task = "tensor"\n[classification]\nsoftmax = 1', "classification.softmax", "true"),
    "top none": ('task = "tensor"\n[classification]\ntop_k = 0', "classification.top_k", "from 1"),
}


def refusal(folder: Path, toml: str) -> ModelError:
    (folder / "model.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        read_spec(folder)
    return caught.value


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_key_is_one_line_with_file_key_and_what_is_allowed(tmp_path: Path, case: str) -> None:
    toml, key, allowed = WRONG[case]
    error = refusal(tmp_path, toml)
    assert error.key == key
    assert str(error).startswith(f"{tmp_path / 'model.toml'}: {key}: ")
    assert allowed in str(error)
    assert "allowed" in str(error)
    assert "\n" not in str(error)


def test_several_problems_are_reported_at_once(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'max_batch = 0\n[image]\nsize = 1\nfilter = "x"')
    assert error.key is None
    for key in ("task: ", "max_batch: ", "image.size: ", "image.filter: "):
        assert key in str(error)
    assert str(error).count("; ") >= 3


@pytest.mark.parametrize("content", [b"task = ", b'task = "\xff"', b"= 3"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.toml").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.toml: is not TOML in UTF-8"):
        read_spec(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.toml: is missing; allowed: .* task = \"tensor\""):
        read_spec(tmp_path)


def test_everything_but_the_task_has_a_default() -> None:
    spec = ModelSpec.model_validate({"task": "mine.py:Mine"})
    assert (spec.provider, spec.threads, spec.max_batch, spec.max_wait_ms, spec.deadline_ms) == (
        "auto",
        0,
        None,
        0.0,
        None,
    )
    assert (spec.image.color, spec.image.layout, spec.image.filter) == ("RGB", "NCHW", "bilinear")
    assert spec.image.max_pixels == 50_000_000
    assert not spec.image.is_normalising


def test_written_keys_win_over_the_preset() -> None:
    torch = ImageSpec.model_validate({"preset": "torch", "filter": "bicubic"})
    assert (torch.resize, torch.crop, torch.filter) == (256, (224, 224), "bicubic")
    resized = ImageSpec.model_validate({"preset": "torch", "resize": [32, 48]})
    assert resized.size == (32, 48), "the preset's crop went with its resize"
    assert resized.mean == torch.mean
    assert ImageSpec.model_validate({"preset": "tf"}).layout == "NHWC"


def test_a_presets_mean_follows_the_colour_order() -> None:
    caffe = ImageSpec.model_validate({"preset": "caffe"})
    assert (caffe.color, caffe.mean) == ("BGR", (103.939, 116.779, 123.68))
    assert ImageSpec.model_validate({"preset": "caffe", "color": "RGB"}).mean == caffe.mean[::-1]
    assert ImageSpec.model_validate({"preset": "caffe", "color": "RGB", "mean": [1, 2, 3]}).mean == (1, 2, 3)


def documented_keys() -> dict[str, dict[str, str]]:
    """Return the keys of the reference page with their defaults, by section; "" has the keys without a section."""
    text = (ROOT / "docs" / "reference" / "model-toml.md").read_text()
    keys: dict[str, dict[str, str]] = {}
    for part in re.split(r"(?m)^## ", text)[1:]:
        heading = part.partition("\n")[0]
        if heading == "Keys without a section" or heading.startswith("`["):
            rows = re.findall(r"(?m)^\| `(\w+)` \| .+? \| (.+?) \| .+ \|$", part)
            keys[heading.strip("`[]") if heading.startswith("`") else ""] = dict(rows)
    return keys


def test_the_reference_page_has_every_key_in_its_section_with_its_default() -> None:
    sections: dict[str, type[BaseModel]] = {}
    for key, field in ModelSpec.model_fields.items():
        is_named = get_origin(field.annotation) is dict
        name, section = (f"{key}.NAME", get_args(field.annotation)[1]) if is_named else (key, field.annotation)
        if isinstance(section, type) and issubclass(section, BaseModel):
            sections[name] = section
    top = {key for key in ModelSpec.model_fields if key not in {name.partition(".")[0] for name in sections}}
    documented = documented_keys()
    wanted = {"": top} | {name: set(section.model_fields) for name, section in sections.items()}
    assert {name: set(keys) for name, keys in documented.items()} == wanted
    for name, keys in documented.items():
        for key, shown in keys.items():
            default = sections.get(name, ModelSpec).model_fields[key].get_default()
            if isinstance(default, bool | int | float | str):
                assert json.loads(shown.strip("`")) == default, f"[{name}] {key}"


def test_the_file_may_begin_with_a_byte_order_mark_and_is_no_utf_16(tmp_path: Path) -> None:
    text = 'task = "tensor"\nmax_batch = 7\n'
    (tmp_path / "model.toml").write_bytes(text.encode("utf-8-sig"))
    assert read_spec(tmp_path).max_batch == 7
    (tmp_path / "model.toml").write_bytes(text.encode("utf-16"))
    with pytest.raises(ModelError, match="UTF-16"):
        read_spec(tmp_path)
