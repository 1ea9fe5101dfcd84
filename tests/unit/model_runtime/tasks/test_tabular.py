"""Task `tabular`: rows become the model's columns, outputs become labels, probabilities and values."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from jobs.contract.errors import Refused
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import BrokenModel, ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array
from tests.support.model_files import tabular

ROW = [0.25, 0.5, 0.125]
PROBABILITIES = {"blue": 0.25, "green": 0.5, "red": 0.125}


def load(models_dir: Path) -> Model:
    (folder,) = list_models(models_dir)
    assert isinstance(folder, ModelFolder)
    return load_model(folder)


def preprocess(model: Model, job_input: Any) -> dict[str, Array]:
    return model.preprocess("json", orjson.dumps(job_input), {})


def answer(model: Model, job_input: Any) -> Any:
    arrays = preprocess(model, job_input)
    outputs = model.run({name: array[np.newaxis] for name, array in arrays.items()})
    together = model.encode_batch(outputs, [{}], 1 << 20)
    alone = model.encode({name: array[0, ...] for name, array in outputs.items()}, {}, 1 << 20)
    assert together == alone
    return orjson.loads(alone[0])


def refusal(model: Model, job_input: Any) -> str:
    with pytest.raises(Refused) as caught:
        preprocess(model, job_input)
    assert caught.value.code == "invalid_input"
    return caught.value.message


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_classifier_answers_its_label_and_probabilities_by_name(tmp_path: Path, *, zipmap: bool) -> None:
    tabular.classifier(tmp_path, "colors", zipmap=zipmap)
    model = load(tmp_path)
    assert answer(model, {"row": ROW}) == {"label": "green", "probabilities": PROBABILITIES}
    card = model.card()
    assert (card["batchable"], card["labels"], card["input_fields"]) == (True, 3, ["features", "row", "rows"])
    assert card["columns"] == []  # they have no names


def test_labels_that_are_integers_stay_integers(tmp_path: Path) -> None:
    tabular.classifier(tmp_path, "digits", (-1, 0, 7))
    assert answer(load(tmp_path), {"row": ROW}) == {"label": 0, "probabilities": {"-1": 0.25, "0": 0.5, "7": 0.125}}


def test_labels_of_a_file_name_the_probabilities(tmp_path: Path) -> None:
    folder = tabular.classifier(tmp_path, "digits", (0, 1, 2), zipmap=False, toml='[tabular]\nlabels = "names.txt"')
    (folder / "names.txt").write_text("low\nmiddle\nhigh\n")
    assert answer(load(tmp_path), {"row": ROW})["probabilities"] == {"low": 0.25, "middle": 0.5, "high": 0.125}
    (folder / "names.txt").write_text("low\nhigh\n")
    with pytest.raises(ModelError, match="2 labels, but the model has 3 classes"):
        load(tmp_path)


def test_columns_get_names_by_model_toml(tmp_path: Path) -> None:
    tabular.classifier(tmp_path, "colors", toml='[tabular]\ncolumns = ["a", "b", "c"]')
    model = load(tmp_path)
    assert answer(model, {"features": {"c": 0.125, "a": 0.25, "b": 0.5}})["probabilities"] == PROBABILITIES
    assert refusal(model, {"features": {"a": 1, "b": 1, "d": 1}}) == (
        "the row misses c and has the unknown 'd'; its columns are a, b, c"
    )


def test_columns_without_names_are_sent_as_a_row(tmp_path: Path) -> None:
    tabular.classifier(tmp_path, "colors")
    model = load(tmp_path)
    assert "no names: send a row of 3 values" in refusal(model, {"features": {"a": 1}})
    assert refusal(model, {"row": [1, 2]}) == "the row has 2 values; the model takes 3: X[0], X[1], X[2]"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ('["a", "b"]', "2 names, but the model takes 3 columns"),
        ('["a", "a", "b"]', "a list of distinct names"),
        ("[]", "a list of distinct names"),
    ],
)
def test_wrong_columns_are_refused_at_load(tmp_path: Path, columns: str, message: str) -> None:
    tabular.classifier(tmp_path, "colors", toml=f"[tabular]\ncolumns = {columns}")
    (found,) = list_models(tmp_path)
    if isinstance(found, BrokenModel):
        assert message in found.reason
        return
    with pytest.raises(ModelError, match=message):
        load_model(found)


def test_columns_of_several_types(tmp_path: Path) -> None:
    tabular.fares(tmp_path)
    model = load(tmp_path)
    assert answer(model, {"features": {"age": 29, "sex": "female", "class": 2}}) == {"value": 2129.0}
    assert answer(model, {"row": [29.5, "male", 1]}) == {"value": 1229.5}
    assert answer(model, {"row": [30, None, 1]}) == {"value": 1030.0}
    assert answer(model, {"row": [None, "male", 1]}) == {"value": None}  # NaN: JSON has none
    assert model.card()["batchable"] is True
    assert model.card()["columns"] == [
        {"name": "age", "datatype": "FP32"},
        {"name": "sex", "datatype": "BYTES"},
        {"name": "class", "datatype": "INT64"},
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["old", "male", 1], "column 'age' takes a number, or null if it is missing, not 'old'"),
        ([1, 2, 1], "column 'sex' takes text, or null for an empty one, not 2"),
        ([1, "male", 1.5], "column 'class' takes a whole number, not 1.5"),
        ([1, "male", None], "column 'class' takes a whole number, not null"),
        ([1, "male", 2**63], f"column 'class': {2**63} is out of range for INT64"),
        ([1e39, "male", 1], "column 'age': 1e+39 is out of range for FP32"),
        ([[1], "male", 1], "column 'age' takes a number"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path: Path, row: list[Any], message: str) -> None:
    tabular.fares(tmp_path)
    assert refusal(load(tmp_path), {"row": row}).startswith(message)


def test_rows_are_named_in_errors(tmp_path: Path) -> None:
    tabular.fares(tmp_path)
    model, rows = load(tmp_path), [[1, "male", 1], {"age": 1, "sex": "male"}]
    with pytest.raises(Refused, match="the row misses class") as caught:
        model.preprocess_rows("json", orjson.dumps({"rows": rows}), {}, 2)
    assert caught.value.details["row"] == 1


def test_parameters_are_refused(tmp_path: Path) -> None:
    tabular.fares(tmp_path)
    with pytest.raises(Refused, match="unknown parameter"):
        load(tmp_path).preprocess("json", b'{"row": [1, "male", 1]}', {"top_k": 1})
