"""Train small models and write them as ONNX by their converters' default options, with rows and expected answers.

Runs in an environment with scikit-learn, skl2onnx, onnxmltools, lightgbm, xgboost and pandas, without the project.
Usage: python write_models.py FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxmltools
import pandas as pd
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as MltoolsFloats
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROWS = 60


def write(folder: Path, name: str, model: Any, rows: list[list[Any]], expected: dict[str, Any]) -> None:
    """Write one model's folder, and rows with their expected answers beside it."""
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.onnx").write_bytes(model.SerializeToString())
    (folder / name / "model.toml").write_text('task = "tabular"\n')
    (folder / f"{name}.json").write_text(json.dumps({"rows": rows, **expected}))


def classified(model: Any, rows: Any) -> dict[str, Any]:
    """Return what the library predicts itself."""
    return {
        "labels": model.predict(rows).tolist(),
        "classes": [*map(str, model.classes_.tolist())],
        "probabilities": model.predict_proba(rows).tolist(),
    }


def main(folder: Path) -> None:
    """Write all models."""
    iris, cancer, diabetes = load_iris(), load_breast_cancer(), load_diabetes()
    flowers, names = iris.data.astype(np.float32), iris.target_names[iris.target]
    forest = RandomForestClassifier(20, random_state=1).fit(flowers, names)
    sample = flowers[:: len(flowers) // ROWS][:ROWS]
    write(folder, "forest", to_onnx(forest, flowers[:1]), sample.tolist(), classified(forest, sample))
    plain = to_onnx(forest, flowers[:1], options={"zipmap": False})
    write(folder, "forest_plain", plain, sample.tolist(), classified(forest, sample))
    logistic = make_pipeline(StandardScaler(), LogisticRegression()).fit(flowers, iris.target)
    write(folder, "logistic", to_onnx(logistic, flowers[:1]), sample.tolist(), classified(logistic, sample))

    values = diabetes.data.astype(np.float32)
    regressor = RandomForestRegressor(20, random_state=1).fit(values, diabetes.target)
    sample = values[:ROWS]
    write(
        folder,
        "regressor",
        to_onnx(regressor, values[:1]),
        sample.tolist(),
        {"values": regressor.predict(sample).tolist()},
    )

    random = np.random.default_rng(1)
    people = pd.DataFrame(
        {
            "age": random.uniform(1, 80, 400).astype(np.float32),
            "fare": random.uniform(5, 300, 400).astype(np.float32),
            "sex": random.choice(["female", "male"], 400),
            "port": random.choice(["C", "Q", "S"], 400),
        }
    )
    survived = ((people.sex == "female") ^ (people.fare > 200)).astype(int)
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["age", "fare"]),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["sex", "port"]),
        ]
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(people, survived)
    sample = people[:ROWS]
    write(folder, "pipeline", to_onnx(pipeline, people[:1]), sample.to_numpy().tolist(), classified(pipeline, sample))

    tumours = cancer.data.astype(np.float32)
    kinds = [("input", MltoolsFloats([None, tumours.shape[1]]))]
    light = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(tumours, cancer.target)
    boosted = xgboost.XGBClassifier(n_estimators=20).fit(tumours, cancer.target)
    sample = tumours[:ROWS]
    write(
        folder,
        "lightgbm",
        onnxmltools.convert_lightgbm(light, initial_types=kinds),
        sample.tolist(),
        classified(light, sample),
    )
    write(
        folder,
        "xgboost",
        onnxmltools.convert_xgboost(boosted, initial_types=kinds),
        sample.tolist(),
        classified(boosted, sample),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
