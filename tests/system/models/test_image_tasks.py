"""Detection and embedding from picture to answer, with models whose answer is known by construction."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import models
from tests.support.service import Service

FINDER = """
task = "object-detection"
[image]
scale = 0.00392156862745098
filter = "nearest"
background = [0, 0, 0]
fit = "%s"
[detection]
labels = "labels.txt"
"""
# As PIL draws: left, top, right, bottom.
RED, GREEN = (64, 128, 512, 384), (768, 512, 1024, 960)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    models.bright_boxes(folder, "finder", FINDER % "letterbox")
    models.bright_boxes(folder, "stretched", FINDER % "stretch")
    models.mean_colour(folder)
    models.mean_colour(folder, "plain", 'task = "image-embedding"\n[embedding]\nnormalize = false')
    with Service(folder) as started:
        yield started


def scene(size: tuple[int, int] = (1536, 1024)) -> Image.Image:
    """A red and a green block on black."""
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), RED)
    image.paste((0, 255, 0), GREEN)
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def output(service: Service, model: str, image: bytes, **parameters: Any) -> dict[str, Any]:
    text = base64.b64encode(image).decode()
    job = {"model": model, "input": {"image": text}, "parameters": parameters}
    answer = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    assert answer["status"] == "succeeded", answer
    found: dict[str, Any] = answer["output"]
    return found


def seen(label: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, right, bottom = box
    sides = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return {
        "label": label,
        "index": int(label != "red thing"),
        "score": 0.9 if label == "red thing" else 0.8,
        "box": sides,
    }


BOTH = [seen("red thing", RED), seen("green thing", GREEN)]


@pytest.mark.parametrize(
    "data",
    [encoded(scene()), encoded(scene(), "JPEG", quality=95, subsampling=0)],
    ids=["png", "a JPEG that is decoded at a quarter of its size"],
)
@pytest.mark.parametrize("model", ["finder", "stretched"])
def test_boxes_are_returned_in_pixels_of_the_picture(service: Service, model: str, data: bytes) -> None:
    assert output(service, model, data) == {"detections": BOTH, "width": 1536, "height": 1024}


def test_a_picture_of_other_proportions_is_letterboxed(service: Service) -> None:
    """1536 x 2048 on 96 x 64: 48 x 64 in the middle; one pixel stands for 32 of the picture."""
    assert output(service, "finder", encoded(scene((1536, 2048)))) == {
        "detections": BOTH,
        "width": 1536,
        "height": 2048,
    }


@pytest.mark.parametrize(("tag", "undo"), [(6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)])
def test_boxes_lie_where_the_viewer_sees_them(service: Service, tag: int, undo: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    lying = encoded(scene().transpose(undo), exif=exif)
    assert output(service, "finder", lying) == {"detections": BOTH, "width": 1536, "height": 1024}


def test_parameters_limit_the_number_and_score_of_boxes(service: Service) -> None:
    data = encoded(scene())
    assert output(service, "finder", data, score_threshold=0.85)["detections"] == BOTH[:1]
    assert output(service, "finder", data, max_detections=1)["detections"] == BOTH[:1]
    assert output(service, "finder", encoded(Image.new("RGB", (96, 64))))["detections"] == []


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        ("finder", {"score_threshold": 2}, "parameter 'score_threshold' is 2; allowed: a number from 0 to 1"),
        (
            "finder",
            {"max_detections": 1.5},
            "parameter 'max_detections' is 1.5; allowed: a whole number from 1 to 1000",
        ),
        ("finder", {".size": [1, 1]}, "unknown parameter: '.size'; allowed: score_threshold"),
        ("colour", {"encoding": "text"}, "parameter 'encoding' is 'text'; allowed: float, base64"),
        ("colour", {"top_k": 1}, "unknown parameter: 'top_k'; allowed: encoding"),
    ],
)
def test_other_parameters_are_refused(service: Service, model: str, parameters: dict[str, Any], words: str) -> None:
    text = base64.b64encode(encoded(scene())).decode()
    job = {"model": model, "input": {"image": text}, "parameters": parameters}
    answer = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    assert (answer["status"], answer["error"]["code"]) == ("failed", "invalid_request")
    assert words in answer["error"]["message"]


def test_a_picture_is_a_vector_of_length_one_or_as_it_comes(service: Service) -> None:
    data = encoded(Image.new("RGB", (8, 8), (30, 60, 60)))
    assert output(service, "colour", data) == {"embedding": [0.33333334, 0.6666667, 0.6666667], "dimensions": 3}
    assert output(service, "plain", data) == {"embedding": [30.0, 60.0, 60.0], "dimensions": 3}
    packed = base64.b64decode(output(service, "colour", data, encoding="base64")["embedding"])
    assert np.frombuffer(packed, "<f4").tolist() == np.array([1 / 3, 2 / 3, 2 / 3], np.float32).tolist()


def test_a_zero_vector_fails_that_job_alone(service: Service) -> None:
    text = base64.b64encode(encoded(Image.new("RGB", (8, 8)))).decode()
    job = {"model": "colour", "input": {"image": text}}
    answer = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    assert (answer["status"], answer["error"]["code"]) == ("failed", "inference_failed")
    assert "all zeros" in answer["error"]["message"]


@pytest.mark.parametrize("model", ["finder", "colour"])
def test_predict_names_the_right_route(service: Service, model: str) -> None:
    files = {"image": ("x.png", encoded(Image.new("RGB", (8, 8), (9, 9, 9))))}
    answer = service.http.post("/predict", files=files, data={"model": model})
    assert (answer.status_code, answer.json()["success"]) == (422, False)
    assert "send its jobs to /v1/jobs" in answer.json()["detail"]


def test_model_cards_name_their_tasks(service: Service) -> None:
    cards = {card["name"]: card for card in service.http.get("/v1/models").json()["models"]}
    assert (cards["finder"]["task"], cards["finder"]["labels"]) == ("object-detection", 2)
    assert cards["colour"]["task"] == "image-embedding"
