"""Define the section `[audio]` of `model.toml`: rate, length and values of the samples that a model takes."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

RATES: Final = (1_000, 384_000)  # samples a second, of a model and of a file
LONGEST_S: Final = 3_600
MAX_SAMPLES: Final = LONGEST_S * RATES[1]


class AudioSpec(BaseModel):
    """`[audio]`: decode, mix to one channel, resample, normalize, bring to the fixed length, scale.

    A model of a fixed length takes `samples`, by default as many as its input has. Others take any length up to
    `max_seconds`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sample_rate: int | None = Field(
        None, ge=RATES[0], le=RATES[1], description=f"a whole number of samples a second from {RATES[0]} to {RATES[1]}"
    )
    samples: int | None = Field(
        None, ge=1, le=MAX_SAMPLES, description=f"a whole number of samples from 1 to {MAX_SAMPLES}"
    )
    fit: Literal["pad", "pad-or-cut", "exact"] = Field(
        "pad",
        description="pad (shorter audio gets zeros at its end, longer audio is refused), pad-or-cut (the end of longer "
        "audio is left out), exact (audio of another length is refused)",
    )
    max_seconds: float = Field(
        60.0, gt=0, le=LONGEST_S, allow_inf_nan=False, description=f"seconds, above 0 and up to {LONGEST_S}"
    )
    normalize: bool = Field(
        False, description="true (to mean 0 and variance 1, each audio by itself), false (samples from -1 to 1)"
    )
    scale: float = Field(1.0, gt=0, allow_inf_nan=False, description="a number above 0")
