"""Define the sections `[cuda]` and `[tensorrt]` of `model.toml`; they have no effect on a CPU."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "fp16", "int8"]


class CudaSpec(BaseModel):
    """`[cuda]`: options of the CUDA provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    graphs: bool = Field(
        True, description="true (record the runs of each bucket as a CUDA graph if the model allows it), false"
    )


class TensorrtSpec(BaseModel):
    """`[tensorrt]`: options of the TensorRT provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    precision: Precision = Field("fp32", description="fp32, fp16, int8 (needs a quantized model)")
