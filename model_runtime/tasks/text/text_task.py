"""The base of the tasks for text: turns tokens into the model's inputs, and runs the model at load to check the fit.

Texts of near length are padded to run together; at load the largest token and the longest text are tried.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import orjson

from batching.padding import PaddedInput, Padding
from jobs.contract.errors import Refused
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.task import PreparedRow, Task, refuse_unknown
from model_runtime.tasks.text.text_settings import TextSettings
from model_runtime.tasks.text.tokenizer import Tokenizer, Tokens
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Row = dict[str, Array]
RunRow = Callable[[Row], Mapping[str, Array]]

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
CHECKED_TOKENS: Final = 512  # a text of more is not tried at load, as its run may take long
SYNTHETIC_TOKENS: Final = 16
INLINE_BYTES: Final = (
    4096  # of texts, which take about a millisecond; a switch of threads costs as much as a short text
)
_SEED: Final = 7


class TextTask(Task):
    """Base of the tasks for text: `input_ids`, and `attention_mask` and `token_type_ids` if the model takes them.

    Takes `{"text": "..."}`, or `{"texts": [...]}`: each text is a row. Tasks whose answers need no text also take
    `{"tokens": [id, ...]}`, and `{"tokens": [[id, ...], ...]}` with a row for each list. Each answer has `tokens`, the
    number of tokens that the model saw, and `truncated`: whether some were left out.
    """

    kinds = frozenset({"text", "json"})
    input_fields: Sequence[str] = ("texts",)
    inline_bytes = INLINE_BYTES
    takes_rows = True
    takes_pairs: ClassVar[bool] = False
    parameter_names: ClassVar[Sequence[str]] = ()

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        self.file = folder / SPEC_FILE
        self._length = _check_inputs(self.file, inputs)
        self.output = _choose_output(self.file, spec.text.output, outputs)
        self.settings = TextSettings(folder, spec.text)
        self._max_tokens = self.settings.max_tokens(self._length)
        self.tokenizer = Tokenizer(
            folder, self._max_tokens, takes_pairs=self.takes_pairs, truncates_left=self.settings.truncates_left
        )
        self._pad_id = next((id_ for id_ in (self.tokenizer.pad_id, self.settings.pad_id) if id_ is not None), 0)
        if self._length is None:
            self.padding = self._own_padding()
        self.from_file = self.taken({"max_tokens": self._max_tokens})

    def taken(self, settings: Mapping[str, Any]) -> list[str]:
        """Return a line for each of these keys of `[text]` that `model.toml` leaves out."""
        written = self.spec.text.model_fields_set
        return [
            f"[text] {key} = {orjson.dumps(value).decode()}" for key, value in settings.items() if key not in written
        ]

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> Row:
        """Return the arrays of one text. Raises Refused."""
        fields: dict[str, Any] = {"texts": [data.decode()]} if kind == "text" else orjson.loads(data)
        if kind != "text" and "tokens" not in fields:
            raise Refused("invalid_input", "a list of texts is a job of several rows: send one text as input.text")
        self.check_parameters(parameters)
        if kind == "text":
            arrays, notes = self._prepare(*self.texts(fields, parameters)[0])
        else:
            arrays, notes = self._prepare_ids(fields["tokens"], parameters)
        parameters |= notes
        return arrays

    def preprocess_rows(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> list[PreparedRow]:  # noqa: ARG002 (counted by the gateway)
        """Return the arrays of each text. Raises Refused, with the row in its details."""
        if kind != "json":
            raise Refused("invalid_input", "a text has no rows: send several as input.texts")
        self.check_parameters(parameters)
        fields = orjson.loads(data)
        if "tokens" in fields:
            made = (self._prepare_ids(ids, parameters) for ids in fields["tokens"])
        else:
            made = (self._prepare(text, pair) for text, pair in self.texts(fields, parameters))
        prepared: list[PreparedRow] = []
        try:
            for arrays, notes in made:
                prepared.append((arrays, parameters | notes))
        except Refused as error:
            error.details["row"] = len(prepared)
            raise
        return prepared

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise Refused for parameters that the task does not take."""
        refuse_unknown(parameters, self.parameter_names)

    def texts(self, fields: Mapping[str, Any], parameters: Mapping[str, Any]) -> Sequence[tuple[str, str | None]]:  # noqa: ARG002 (for tasks that have some)
        """Return the text of each row of an input, and the one that the model sees beside it."""
        return [(text, None) for text in fields["texts"]]

    def notes(self, text: str, tokens: Tokens) -> dict[str, Any]:  # noqa: ARG002 (for tasks that need it)
        """Return what `answer` needs to know about the tokens, under names that begin with a dot."""
        return {}

    @abstractmethod
    def answer(self, values: Array, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer for the values of the output, without those of padding."""

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of one text."""
        values = self._without_padding(outputs[self.output.name], parameters[".tokens"])
        shown = {"tokens": parameters[".tokens"], "truncated": parameters[".truncated"]}
        return self.answer(values, parameters) | shown

    def make_rows(self, count: int) -> Sequence[Row]:
        """Return rows of random tokens without padding."""
        return self._made_rows(count, self._length or min(SYNTHETIC_TOKENS, self._max_tokens))

    def check_fit(self, run: RunRow, table_height: int) -> None:
        """Run the largest token id, and a text of the most tokens. Raises ModelError if the model cannot.

        `run` runs one row. `table_height`: of the model's table of tokens, 0 if it is not known.
        """
        largest, size = self.tokenizer.largest_id, self._length or 1
        allowed = "allowed: the tokenizer of this model"
        if table_height and largest >= table_height:
            reason = f"its ids go up to {largest}, but the model's table has {table_height} rows; {allowed}"
            raise ModelError(self.tokenizer.path, None, reason)
        if _failure(run, self._arrays([self._pad_id] * size, [0] * size)) is not None:
            return  # the ids are not the cause
        if (failure := _failure(run, self._arrays([largest] * size, [0] * size))) is not None:
            reason = f"its ids go up to {largest}, which the model cannot run: {failure}; {allowed}"
            raise ModelError(self.tokenizer.path, None, reason)
        most = self._max_tokens
        if self._length is None and most <= CHECKED_TOKENS:
            (row,) = self._made_rows(1, most)
            if (failure := _failure(run, row)) is not None:
                reason = f"the model cannot run {most} tokens: {failure}; allowed: fewer"
                raise ModelError(self.file, "text.max_tokens", reason)

    def make_rows_of(self, lengths: Sequence[int]) -> Sequence[Row]:
        """Return a row of random tokens of each length."""
        return [row for length in lengths for row in self._made_rows(1, min(length, self._max_tokens))]

    def _own_padding(self) -> Padding:
        """Return how texts are padded: with the padding token, and 0 in the mask, without which they are not padded."""
        values = {IDS: self._pad_id, MASK: 0, TYPES: 0}
        is_used = self.spec.padding.enabled
        return Padding(
            {each.name: PaddedInput(0, values[each.name]) for each in self.inputs},
            {each.name: 0 for each in self.outputs if len(each.shape) > 1 and each.shape[0] == -1},
            {},
            longest=self._max_tokens,
            is_used=any(each.name == MASK for each in self.inputs) if is_used is None else is_used,
        )

    def _prepare(self, text: str, pair: str | None) -> tuple[Row, dict[str, Any]]:
        tokens = self.tokenizer.encode(text, pair)
        count = len(tokens.ids)
        if not count:
            raise Refused("invalid_input", "the text has no tokens")
        notes = {".tokens": count, ".truncated": tokens.is_truncated}
        return self._arrays(tokens.ids, tokens.type_ids), notes | self.notes(text, tokens)

    def _prepare_ids(self, ids: list[int], parameters: Mapping[str, Any]) -> tuple[Row, dict[str, Any]]:
        """Return the arrays of token ids, which the gateway has checked to be some, and whole numbers from 0."""
        if "prompt" in parameters:
            raise Refused("invalid_request", "parameter 'prompt' is put before texts: token ids have none")
        tokens = self.tokenizer.take_ids(ids)
        return self._arrays(tokens.ids, tokens.type_ids), {
            ".tokens": len(tokens.ids),
            ".truncated": tokens.is_truncated,
        }

    def _arrays(self, ids: Sequence[int], types: Sequence[int]) -> Row:
        """Return the arrays of a row, padded if the model has a fixed length."""
        count = len(ids)
        size = self._length or count
        values = {IDS: (ids, self._pad_id), MASK: ([1] * count, 0), TYPES: (types, 0)}
        row: Row = {}
        for spec in self.inputs:
            known, padding = values[spec.name]
            row[spec.name] = array = np.full(size, padding, DTYPES[spec.datatype])
            array[:count] = known
        return row

    def _made_rows(self, count: int, tokens: int) -> list[Row]:
        """Return rows of random tokens, without padding; the second half of a pair has the type 1."""
        random, known = np.random.default_rng(_SEED), self.tokenizer.ordinary_ids()
        types = np.arange(tokens) >= (tokens // 2 if self.takes_pairs else tokens)
        rows = [{IDS: random.choice(known, tokens), MASK: np.ones(tokens), TYPES: types} for _ in range(count)]
        return [{each.name: row[each.name].astype(DTYPES[each.datatype]) for each in self.inputs} for row in rows]

    def _without_padding(self, values: Array, tokens: int) -> Array:
        """Return the values of the output without those of padding to a fixed length."""
        return values[:tokens] if len(self.output.shape) == 2 else values


def _failure(run: RunRow, row: Row) -> str | None:
    """Return why a row does not run, None if it does. Too little memory is no failure. Raises if the device is lost."""
    try:
        run(row)
    except RunFailed as error:
        if error.fault == "device":
            raise
        return str(error) if error.fault == "input" else None
    return None


def _check_inputs(file: Path, inputs: Sequence[TensorSpec]) -> int | None:
    """Return the length that the inputs are fixed to, None if it is free. Raises ModelError."""
    names = [each.name for each in inputs]
    if IDS not in names or not {*names} <= {IDS, MASK, TYPES}:
        reason = f"the model takes {', '.join(names)}; allowed for text: {IDS}, with {MASK} and {TYPES} or without"
        raise ModelError(file, "task", f"{reason}; [inputs.NAME] value = … makes another input a constant")
    for each in inputs:
        if each.datatype not in {"INT64", "INT32"} or len(each.shape) != 1:
            reason = f"input {each.name!r} is {each.datatype} {list(each.shape)} per text"
            raise ModelError(file, "task", f"{reason}; allowed: INT64 or INT32 and one dimension")
    lengths = {each.shape[0] for each in inputs} - {-1}
    if len(lengths) > 1 or 0 in lengths:
        raise ModelError(file, "task", f"the inputs have the lengths {sorted(lengths)}; allowed: one for all of them")
    if lengths and MASK not in names:
        reason = f"the inputs have the fixed length {max(lengths)} and no {MASK}, so padding would reach the answers"
        raise ModelError(file, "task", f"{reason}; allowed: a free length, or {MASK}")
    return next(iter(lengths), None)


def _choose_output(file: Path, name: str | None, outputs: Sequence[TensorSpec]) -> TensorSpec:
    names = [each.name for each in outputs]
    if name is not None and name not in names:
        raise ModelError(file, "text.output", f"there is no output {name!r}; allowed: {', '.join(names)}")
    numbers = [each for each in outputs if DTYPES[each.datatype].kind == "f" and name in {None, each.name}]
    if not numbers:
        shown = ", ".join(f"{each.name!r} ({each.datatype})" for each in outputs if name in {None, each.name})
        raise ModelError(file, "text.output", f"is {shown}; allowed: an output of FP32, FP16, BF16 or FP64")
    return numbers[0]
