"""Decide the settings of a model for text: `[text]` of `model.toml` first, else the Hugging Face files beside it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import orjson

from model_runtime.repository.path_checks import check_file
from model_runtime.spec.model_toml import SPEC_FILE, ModelError
from model_runtime.spec.text import MAX_TOKENS, POOLING_FILE, Activation, Pooling, TextSpec
from model_runtime.tasks.image_input import read_labels

DEFAULT_MAX_TOKENS: Final = 512
MAX_FILE_BYTES: Final = 8 << 20
# Families whose positions begin behind the id of the padding token.
_OFFSET_POSITIONS: Final = frozenset(
    {
        "camembert",
        "data2vec-text",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)
_POOLING_MODES: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_ACTIVATIONS: Final[Mapping[str, Activation]] = {"Identity": "none", "Sigmoid": "sigmoid"}
_PROBLEMS: Final[Mapping[str, Activation]] = {"multi_label_classification": "sigmoid", "regression": "none"}


class TextSettings:
    """The settings of one model. Methods raise ModelError for files that contradict the model or each other."""

    def __init__(self, folder: Path, spec: TextSpec) -> None:
        self._folder, self._spec, self._toml = folder, spec, folder / SPEC_FILE
        self._config = self._object("config.json")
        self._tokenizer_config = self._object("tokenizer_config.json")

    def max_tokens(self, length: int | None) -> int:
        """Return the most tokens of a text. `length`: that the model is fixed to, None: any."""
        positions = _whole(self._config, "max_position_embeddings")
        if positions and self._config.get("model_type") in _OFFSET_POSITIONS:
            positions -= (_whole(self._config, "pad_token_id") or 1) + 1
        most = min([limit for limit in (positions, length) if limit], default=None)
        if self._spec.max_tokens is not None:
            if most is not None and self._spec.max_tokens > most:
                reason = f"is {self._spec.max_tokens}, but the model takes {most} tokens; allowed: 1 to {most}"
                raise ModelError(self._toml, "text.max_tokens", reason)
            return self._spec.max_tokens
        named = _whole(self._object("sentence_bert_config.json"), "max_seq_length")
        named = named or _whole(self._tokenizer_config, "model_max_length")
        if named is not None and named > MAX_TOKENS:  # "no limit" is written as 1e30
            named = None
        return min([limit for limit in (named, most) if limit], default=DEFAULT_MAX_TOKENS)

    @property
    def truncates_left(self) -> bool:
        """Return whether the beginning of a text that is too long is left out, and not its end."""
        return self._tokenizer_config.get("truncation_side") == "left"

    @property
    def pad_id(self) -> int | None:
        """Return the id of the padding token, None if it is not named."""
        return _whole(self._config, "pad_token_id")

    def pooling(self) -> Pooling:
        """Return how the vectors of tokens become one."""
        if self._spec.pooling is not None:
            return self._spec.pooling
        config = self._object(POOLING_FILE)
        modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
        if not modes:
            return "mean"
        if len(modes) > 1 or modes[0] not in _POOLING_MODES or config.get("include_prompt") is False:
            names = ", ".join([*modes, *(["include_prompt = false"] if config.get("include_prompt") is False else [])])
            allowed = f"{', '.join(_POOLING_MODES)}; [text] pooling in {SPEC_FILE} overrides it"
            raise ModelError(self._folder / POOLING_FILE, None, f"{names} is not supported; allowed: one of {allowed}")
        return _POOLING_MODES[modes[0]]

    def normalize(self) -> bool:
        """Return whether vectors are scaled to length 1."""
        return (
            self._modules is None or "Normalize" in self._modules
            if self._spec.normalize is None
            else self._spec.normalize
        )

    def check_modules(self) -> None:
        """Refuse a folder whose layers behind the pooling are not in the ONNX file."""
        if self._modules is not None and "Dense" in self._modules:
            reason = "there is a Dense layer behind the pooling, which the output does not have; allowed: an export "
            raise ModelError(self._folder / "modules.json", None, f"{reason}whose output is the text's vector")

    def prompts(self) -> tuple[Mapping[str, str], str]:
        """Return the prompts by name, and the one of a job that names none."""
        if self._spec.prompts is not None:
            return self._spec.prompts, ""
        config = self._object("config_sentence_transformers.json")
        prompts = config.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
            path = self._folder / "config_sentence_transformers.json"
            raise ModelError(path, "prompts", "is not an object of texts; allowed: a text by name")
        return prompts, prompts.get(str(config.get("default_prompt_name")), "")

    def labels(self, classes: int | None) -> list[str] | None:
        """Return the names of the classes. `classes`: how many the model has, None if that is free."""
        labels = read_labels(self._toml, self._folder, "text.labels", self._spec.labels)
        path = self._folder / (self._spec.labels or "config.json")
        if labels is None and isinstance(names := self._config.get("id2label"), dict):
            try:
                labels = [str(names[str(index)]) for index in range(len(names))]
            except KeyError as error:
                raise ModelError(path, "id2label", f"there is no {error}; allowed: a label for each index") from error
        if labels is not None and classes is not None and len(labels) != classes:
            raise ModelError(
                path, None, f"{len(labels)} labels, but the model has {classes} classes; allowed: {classes}"
            )
        return labels

    def activation(self, default: Activation) -> Activation:
        """Return what turns scores into probabilities."""
        if self._spec.activation is not None:
            return self._spec.activation
        of_encoder = self._config.get("sentence_transformers")
        named = of_encoder.get("activation_fn") if isinstance(of_encoder, dict) else None
        named = named or self._config.get("sbert_ce_default_activation_function")
        if isinstance(named, str) and (found := _ACTIVATIONS.get(named.rpartition(".")[2])):
            return found
        return _PROBLEMS.get(str(self._config.get("problem_type")), default)

    @cached_property
    def _modules(self) -> set[str] | None:
        """Return the kinds of sentence-transformers' modules, None without such a file."""
        modules = self._read("modules.json")
        if modules is None:
            return None
        if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
            raise ModelError(
                self._folder / "modules.json", None, "is not a list of modules; allowed: a list of objects"
            )
        return {str(module.get("type")).rpartition(".")[2] for module in modules}

    def _object(self, name: str) -> dict[str, Any]:
        value = self._read(name)
        if value is None or isinstance(value, dict):
            return value or {}
        raise ModelError(self._folder / name, None, "is not a JSON object")

    def _read(self, name: str) -> Any:
        """Return the value of a JSON file, None if there is no such file."""
        path = self._folder / name
        if not path.exists() and not path.is_symlink():
            return None
        size = check_file(self._folder, path).st_size
        if size > MAX_FILE_BYTES:
            raise ModelError(path, None, f"has {size} bytes; allowed: {MAX_FILE_BYTES}")
        try:
            return orjson.loads(path.read_bytes())
        except OSError as error:
            raise ModelError(path, None, f"cannot be read: {error.strerror}") from error
        except orjson.JSONDecodeError as error:
            raise ModelError(path, None, f"is not JSON in UTF-8: {error}") from error


def _whole(config: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number from 0; None if there is none."""
    value = config.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
