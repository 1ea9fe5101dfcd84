"""What `model.toml` may say of a task's answers: `[embedding]` and `[detection]`."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

LABELS: Final = r"^[^/\\.][^/\\]*$"


class EmbeddingSpec(BaseModel):
    """`[embedding]`: one vector a picture."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    output: str | None = Field(None, description="the name of one of the model's outputs; left out, its first")
    normalize: bool = Field(True, description="true (of length 1), false (as the model gives it)")


class DetectionSpec(BaseModel):
    """`[detection]`: how the model's outputs are read as boxes with a score for each class, and which are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    labels: str | None = Field(
        None, pattern=LABELS, description="the name of a text file in the model's folder, a label a line"
    )
    format: Literal["yolo", "yolo-objectness", "boxes-scores"] = Field(
        "yolo",
        description="yolo (one output: a box and its scores), yolo-objectness (one number more between them), "
        "boxes-scores (two outputs)",
    )
    box: Literal["cxcywh", "xyxy", "yxyx"] = Field("cxcywh", description="cxcywh, xyxy, yxyx")
    relative: bool = Field(False, description="true (boxes as shares of the input's sides), false (in its pixels)")
    scores: Literal["probability", "sigmoid", "softmax"] = Field(
        "probability", description="probability (as they come), sigmoid, softmax (the last class is the background)"
    )
    score_threshold: float = Field(0.25, ge=0, le=1, description="a number from 0 to 1")
    iou_threshold: float = Field(0.45, ge=0, le=1, description="a number from 0 to 1 (1: boxes may lie on each other)")
    max_detections: int = Field(100, ge=1, le=1000, description="a whole number from 1 to 1000")
