"""`[cuda]` and `[tensorrt]` of `model.toml`: what a GPU may do with a model; on a CPU they change nothing."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "fp16", "int8"]


class CudaSpec(BaseModel):
    """`[cuda]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    graphs: bool = Field(
        True, description="true (record the runs of each bucket as a CUDA graph where the model can be), false"
    )


class TensorrtSpec(BaseModel):
    """`[tensorrt]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    precision: Precision = Field("fp32", description="fp32, fp16, int8 (a model that is quantized)")
