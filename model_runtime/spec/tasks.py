"""Define the sections `[embedding]` and `[detection]` of `model.toml`."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

LABELS: Final = r"^[^/\\.][^/\\]*$"


class EmbeddingSpec(BaseModel):
    """`[embedding]`: how a model output becomes the vector of an image."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    output: str | None = Field(None, description="the name of one of the model's outputs; if omitted, the first")
    normalize: bool = Field(True, description="true (scale to length 1), false (leave as the model returns it)")


class DetectionSpec(BaseModel):
    """`[detection]`: how outputs are read as boxes with class scores, and which boxes are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    labels: str | None = Field(
        None, pattern=LABELS, description="the name of a text file in the model's folder, one label per line"
    )
    format: Literal["yolo", "yolo-objectness", "boxes-scores"] = Field(
        "yolo",
        description="yolo (one output: box, scores), yolo-objectness (one output: box, objectness, scores), "
        "boxes-scores (two outputs)",
    )
    box: Literal["cxcywh", "xyxy", "yxyx"] = Field("cxcywh", description="cxcywh, xyxy, yxyx")
    relative: bool = Field(False, description="true (boxes as fractions of the input's sides), false (in input pixels)")
    scores: Literal["probability", "sigmoid", "softmax"] = Field(
        "probability", description="probability (unchanged), sigmoid, softmax (the last class is the background)"
    )
    score_threshold: float = Field(0.25, ge=0, le=1, description="a number from 0 to 1")
    iou_threshold: float = Field(0.45, ge=0, le=1, description="a number from 0 to 1 (1: keep overlapping boxes)")
    max_detections: int = Field(100, ge=1, le=1000, description="a whole number from 1 to 1000")
