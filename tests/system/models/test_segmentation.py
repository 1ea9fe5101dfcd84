"""Segmentation from picture to mask, over HTTP, in bulk and without a service, with masks known by construction."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_runtime.tensor_spec import Array
from tests.support import bulk, bulks
from tests.support.model_files import segmentation
from tests.support.service import Service
from tests.unit.model_runtime.images.test_mask import counts_of, pixels_of, upsampled

FOREGROUND = 'task = "image-segmentation"\n[image]\nscale = 0.00392156862745098\nfilter = "nearest"\n'
# As PIL draws: left, top, right, bottom; on the grid of the cells that the model sees.
RED, GREEN = (32, 64, 192, 192), (256, 128, 384, 256)
SIZE = (384, 256)  # 16 times the model's input


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    segmentation.colours(folder, cell=1)
    segmentation.colours(folder, "boxed", fit="letterbox", cell=1)
    segmentation.colours(folder, "coarse")
    segmentation.classes(folder)
    segmentation.foreground(folder, "matte", FOREGROUND)
    segmentation.foreground(folder, "logits", FOREGROUND + '[segmentation]\nscores = "sigmoid"\n', logits=True)
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir) as started:
        yield started


def scene(size: tuple[int, int] = SIZE) -> Image.Image:
    """A red and a green block on black."""
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), RED)
    image.paste((0, 255, 0), GREEN)
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def send(service: Service, model: str, image: bytes, **parameters: Any) -> dict[str, Any]:
    job = {"model": model, "input": {"image": base64.b64encode(image).decode()}, "parameters": parameters}
    answer: dict[str, Any] = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=20"}).json()
    return answer


def output(service: Service, model: str, image: bytes, **parameters: Any) -> dict[str, Any]:
    answer = send(service, model, image, **parameters)
    assert answer["status"] == "succeeded", answer
    found: dict[str, Any] = answer["output"]
    return found


def pixels(answer: dict[str, Any]) -> Array:
    with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
        return np.asarray(mask)


def blocks(size: tuple[int, int] = SIZE, red: int = 1, green: int = 2) -> Array:
    mask = np.zeros(size[::-1], np.uint8)
    for number, (left, top, right, bottom) in ((red, RED), (green, GREEN)):
        mask[top:bottom, left:right] = number
    return mask


def expected_mask(size: tuple[int, int] = SIZE, cell: int = 16) -> Array:
    """The best class of the scores of cells, each of so many pixels of the picture, interpolated to its size."""
    cells = blocks(size)[::cell, ::cell]
    scores = np.stack([np.full(cells.shape, 0.5), cells == 1, cells == 2])
    mask: Array = upsampled(scores, *size).argmax(axis=0)
    return mask


@pytest.mark.parametrize("model", ["scene", "boxed"])
def test_the_mask_has_the_size_of_the_picture(service: Service, model: str) -> None:
    answer = output(service, model, encoded(scene()))
    mask = pixels(answer)
    assert np.array_equal(mask, expected_mask())
    counts = [int((mask == number).sum()) for number in range(3)]
    assert answer.pop("mask")
    assert answer == {
        "format": "png",
        "width": 384,
        "height": 256,
        "classes": [
            {"label": label, "index": index, "pixels": counts[index], "share": round(counts[index] / mask.size, 6)}
            for index, label in ((0, "nothing"), (1, "red thing"), (2, "green thing"))
        ],
    }


def test_a_picture_of_other_proportions_is_letterboxed(service: Service) -> None:
    size = (384, 512)
    assert np.array_equal(pixels(output(service, "boxed", encoded(scene(size)))), expected_mask(size, 32))


def test_a_coarse_output_is_interpolated(service: Service) -> None:
    assert np.array_equal(pixels(output(service, "coarse", encoded(scene()))), expected_mask(cell=32))


@pytest.mark.parametrize(("tag", "undo"), [(6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)])
def test_the_mask_lies_on_the_picture_as_the_viewer_sees_it(service: Service, tag: int, undo: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    answer = output(service, "scene", encoded(scene().transpose(undo), exif=exif))
    assert np.array_equal(pixels(answer), expected_mask())


def test_run_lengths_are_the_same_mask(service: Service) -> None:
    answer = output(service, "scene", encoded(scene()), format="rle")
    assert (answer["format"], "mask" in answer) == ("rle", False)
    for each in answer["classes"]:
        assert each["rle"]["size"] == [256, 384]
        expected = expected_mask() == each["index"]
        assert np.array_equal(pixels_of(counts_of(each["rle"]["counts"]), 384, 256), expected)
        assert each["pixels"] == expected.sum()


def test_a_model_may_answer_classes(service: Service) -> None:
    """255 is no class."""
    answer = output(service, "classes", encoded(scene()))
    assert np.array_equal(pixels(answer), blocks(red=7, green=255))
    assert [(each["label"], each["pixels"]) for each in answer["classes"]] == [("nothing", 61440), ("7", 20480)]


@pytest.mark.parametrize("model", ["matte", "logits"])
def test_of_one_class_the_threshold_decides(service: Service, model: str) -> None:
    picture = Image.new("RGB", SIZE)
    picture.paste((153, 0, 0), RED)  # 0.6
    for threshold, whole in ((None, True), (0.55, True), (0.65, False)):
        parameters = {} if threshold is None else {"threshold": threshold}
        answer = output(service, model, encoded(picture), **parameters)
        assert {each["label"] for each in answer["classes"]} == ({"0", "1"} if whole else {"0"})
        assert pixels(answer)[128, 112] == whole


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        ("scene", {"format": "jpeg"}, "parameter 'format' is 'jpeg'; allowed: png, rle"),
        ("scene", {"threshold": 0.5}, "unknown parameter: 'threshold'; allowed: format"),
        ("matte", {"threshold": 2}, "parameter 'threshold' is 2; allowed: a number from 0 to 1"),
    ],
)
def test_other_parameters_are_refused(service: Service, model: str, parameters: dict[str, Any], words: str) -> None:
    answer = send(service, model, encoded(scene()), **parameters)
    assert (answer["status"], answer["error"]["code"]) == ("failed", "invalid_request")
    assert words in answer["error"]["message"]


def test_many_masks_at_once_are_all_right(service: Service) -> None:
    image = base64.b64encode(encoded(scene())).decode()
    jobs = [{"model": "scene", "input": {"image": image}, "parameters": {"format": "png"}} for _ in range(24)]
    answers = service.http.post("/v1/jobs", json=jobs, headers={"prefer": "wait=20"}).json()["jobs"]
    assert [answer["status"] for answer in answers] == ["succeeded"] * 24
    assert len({answer["output"]["mask"] for answer in answers}) == 1


def test_the_model_card_names_the_task(service: Service) -> None:
    cards = {card["name"]: card for card in service.http.get("/v1/models").json()["models"]}
    assert (cards["scene"]["task"], cards["scene"]["labels"]) == ("image-segmentation", 3)


def test_bulk_runs_give_the_same_masks(service: Service, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(scene()))
    there = ("--url", service.url, "--model", "scene")
    for name, where in (("local", ("--local", models_dir / "scene")), ("service", there)):
        done = bulk.run(tmp_path / "in", "-o", tmp_path / f"{name}.jsonl", *where)
        assert done.code == 0, done
        rows = bulk.read_complete_rows(tmp_path / f"{name}.jsonl", 5)
        assert all(np.array_equal(pixels(row["output"]), expected_mask()) for row in rows)


def test_an_uploaded_bulk_file_gives_masks(service: Service) -> None:
    with bulks.client(service.url) as ai:
        batch = bulks.start_batch(ai, [bulks.line(f"{n}", encoded(scene()), "scene") for n in range(4)])
        good, _ = bulks.check_batch(ai, bulks.wait_for_end(ai, batch), [f"{n}" for n in range(4)])
    outputs = [each["response"]["body"]["output"] for each in good]
    assert all(np.array_equal(pixels(each), expected_mask()) for each in outputs)
