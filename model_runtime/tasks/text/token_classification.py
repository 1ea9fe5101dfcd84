"""Task `token-classification`: find the entities of a text, such as names, from the labels of its tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks.answers import activate, check_finite
from model_runtime.tasks.text.text_task import TextTask
from model_runtime.tasks.text.tokenizer import Tokens
from model_runtime.tensor_spec import Array, TensorSpec

OUTSIDE: Final = "O"  # the label of tokens that belong to no entity


class TokenClassification(TextTask):
    """`task = "token-classification"`: the output has a number per class for each token.

    Returns {"entities": [{"label", "start", "end", "score", "text"}, ...]} in the order of the text: characters from
    `start` to the one before `end`, `score` the mean of its tokens. Neighbours of one label are one entity; a label
    B-x begins one, I-x continues it. Tokens of the label O are left out.
    """

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        shape = self.output.shape
        if len(shape) != 2 or 0 in shape:
            reason = f"{self.output.name!r} is {list(shape)} per text; allowed: one number per class for each token"
            raise ModelError(self.file, "text.output", reason)
        labels = self.settings.labels(shape[1] if shape[1] > 0 else None)
        if labels is None:
            raise ModelError(
                self.file, "text.labels", "missing; allowed: a file of labels, or config.json with id2label"
            )
        self._labels, self.label_count = labels, len(labels)
        self._activation = self.settings.activation("softmax")

    def notes(self, text: str, tokens: Tokens) -> dict[str, Any]:
        """Return the places of the tokens, and the text as far as they go."""
        end = max(end for _, end in tokens.offsets)
        return {".offsets": tokens.offsets, ".is_special": tokens.is_special, ".text": text[:end]}

    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entities, scores rounded to 6 digits. Raises Refused("inference_failed") for NaN."""
        numbers = activate(values.astype(np.float32), self._activation)
        check_finite(numbers, "text")
        best = numbers.argmax(axis=-1)
        scores: list[float] = numbers[np.arange(len(best)), best].tolist()
        entities: list[dict[str, Any]] = []
        grouped: list[list[float]] = []
        previous = ""
        places = zip(parameters[".offsets"], parameters[".is_special"], best.tolist(), scores, strict=True)
        for (start, end), is_special, index, score in places:
            if is_special or start == end:
                continue
            label = self._label(index)
            name = label[2:] if label[:2] in {"B-", "I-"} else label
            if name == OUTSIDE:
                previous = ""
                continue
            if label.startswith("B-") or name != previous:
                entities.append({"label": name, "start": start, "end": end})
                grouped.append([])
            entities[-1]["end"] = end
            grouped[-1].append(score)
            previous = name
        for entity, group in zip(entities, grouped, strict=True):
            entity["score"] = round(sum(group) / len(group), 6)
            found: str = parameters[".text"][entity["start"] : entity["end"]]
            entity["text"] = found.lstrip()  # some tokenizers count the space before a word to it
            entity["start"] += len(found) - len(entity["text"])
        return {"entities": entities}

    def _label(self, index: int) -> str:
        return self._labels[index] if index < len(self._labels) else str(index)
