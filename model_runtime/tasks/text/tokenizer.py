"""Turn texts into tokens with the `tokenizer.json` of a model's folder, and check token ids of callers."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.repository.path_checks import check_file
from model_runtime.spec.model_toml import SPEC_FILE, ModelError
from model_runtime.spec.text import TOKENIZER_FILE
from model_runtime.tensor_spec import Array

HEAD_CHARS: Final = 32  # characters for each token that is kept: texts have a few
_PAD_TOKENS: Final = ("[PAD]", "<pad>")


class Tokens(NamedTuple):
    """The tokens of a text, or of a pair of texts, special ones included.

    `offsets`: the first character of each token and the one behind it, in its text. `is_truncated`: some tokens were
    left out.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    is_special: list[int]
    is_truncated: bool


class Tokenizer:
    """A tokenizer that gives at most `max_tokens` tokens. `encode` may be called from several threads."""

    def __init__(
        self, folder: Path, max_tokens: int, *, takes_pairs: bool = False, truncates_left: bool = False
    ) -> None:
        """Load the tokenizer. Raises ModelError."""
        self.path, self._max_tokens, self._truncates_left = folder / TOKENIZER_FILE, max_tokens, truncates_left
        self._tokenizer = _load(folder, self.path)
        padding = self._tokenizer.padding
        known = (self._tokenizer.token_to_id(token) for token in _PAD_TOKENS)
        self.pad_id: int | None = (
            padding["pad_id"] if padding else next((id_ for id_ in known if id_ is not None), None)
        )
        self._tokenizer.no_padding()
        special = self._tokenizer.num_special_tokens_to_add(takes_pairs)
        if max_tokens <= special:
            reason = f"is {max_tokens}, and the tokenizer adds {special} special tokens; allowed: more than {special}"
            raise ModelError(folder / SPEC_FILE, "text.max_tokens", reason)
        self._tokenizer.enable_truncation(max_tokens, direction="left" if truncates_left else "right")
        self.largest_id = max(self._tokenizer.get_vocab().values(), default=0)

    def encode(self, text: str, pair: str | None = None) -> Tokens:
        """Return the tokens of a text, or of two that the model sees together."""
        found = self._encode(self._head(text), None if pair is None else self._head(pair))
        # `overflowing` copies what was left out, and is asked only if there may be something.
        is_truncated = len(found) >= self._max_tokens and bool(found.overflowing)
        return Tokens(found.ids, found.type_ids, found.offsets, found.special_tokens_mask, is_truncated)

    def take_ids(self, ids: list[int]) -> Tokens:
        """Return the tokens of ids of a caller, as they are: no special ones are added, and places are not known.

        `ids`: whole numbers from 0. Raises Refused for an id that the tokenizer does not have.
        """
        if (largest := max(ids)) > self.largest_id:
            allowed = f"allowed: 0 to {self.largest_id}, the ids of this model's tokenizer"
            raise Refused("invalid_input", f"token id {largest} is none of the model's; {allowed}")
        kept = ids[-self._max_tokens :] if self._truncates_left else ids[: self._max_tokens]
        return Tokens(kept, [0] * len(kept), [], [], len(kept) < len(ids))

    def _head(self, text: str) -> str:
        """Return the beginning of a very long text if it alone has more tokens than are kept by far, or else the text.

        A text of 1 MiB would take 0.4 s and 100 MiB.
        """
        head = text[: self._max_tokens * HEAD_CHARS]
        if len(head) == len(text) or self._truncates_left:
            return text
        return head if len(self._encode(head).overflowing) > 1 else text

    def _encode(self, text: str, pair: str | None = None) -> Any:
        try:
            return self._tokenizer.encode(text, pair)
        except BaseException as error:  # a panic of the library is no Exception
            message = f"the tokenizer failed: {error}"
            raise RuntimeError(message) from error

    def ordinary_ids(self) -> Array:
        """Return the ids of all tokens that are not special."""
        special = {id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        ids = {*self._tokenizer.get_vocab().values()}
        return np.array(sorted(ids - special or ids), np.int64)


def _load(folder: Path, path: Path) -> Any:
    if not path.exists() and not path.is_symlink():
        raise ModelError(
            path, None, "is missing; allowed: the tokenizer of this model, as a Hugging Face folder has it"
        )
    check_file(folder, path)
    try:
        import tokenizers  # noqa: PLC0415 (only models for text need it)
    except ModuleNotFoundError as error:
        reason = "the package tokenizers is not installed; allowed: jitney[cpu] or jitney[gpu], which have it"
        raise ModelError(path, None, reason) from error
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # of the library: a bare Exception, or a panic
        raise ModelError(path, None, f"is not a tokenizer that can be read: {error}") from error
