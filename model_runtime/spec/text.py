"""Define the section `[text]` of `model.toml`, and which files beside it give defaults for its keys."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_TOKENS: Final = 131_072
TEXT_TASKS: Final = ("text-embedding", "text-classification", "token-classification", "text-ranking")

TOKENIZER_FILE: Final = "tokenizer.json"
POOLING_FOLDER: Final = "1_Pooling"
POOLING_FILE: Final = f"{POOLING_FOLDER}/config.json"
# What a model's folder may have beside model.toml, as a Hugging Face repository has it.
TEXT_FILES: Final = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "modules.json",
    POOLING_FILE,
)

Pooling = Literal["mean", "cls", "last"]
Activation = Literal["softmax", "sigmoid", "none"]


def _prompts(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        message = "is not a table of texts; allowed: a text by name, put before the text of a job that names it"
        raise ValueError(message)
    return value


class TextSpec(BaseModel):
    """`[text]`: how texts become tokens, and outputs become vectors, labels and scores.

    None: the files of TEXT_FILES say it, or else the task has a default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description=f"a whole number of tokens from 1 to {MAX_TOKENS}"
    )
    output: str | None = Field(None, description="the name of an output; if omitted, the first of floats")
    pooling: Pooling | None = Field(None, description="mean (of all tokens), cls (the first token), last (token)")
    normalize: bool | None = Field(None, description="true (scale to length 1), false (leave as the model returns it)")
    prompts: Annotated[Mapping[str, str], BeforeValidator(_prompts)] | None = Field(
        None, description="a table of names and the texts that are put before a job's text"
    )
    labels: str | None = Field(
        None,
        pattern=r"^[^/\\.][^/\\]*$",
        description="the name of a text file in the model's folder, one label per line",
    )
    activation: Activation | None = Field(
        None, description="softmax, sigmoid, none (the model returns what is answered)"
    )
    top_k: int = Field(5, ge=1, le=100_000, description="a whole number from 1 to the number of labels")
