"""Task `tabular`: rows of named columns, as converters of scikit-learn, LightGBM and XGBoost models take them.

Checks at load that the model's inputs are columns, and finds out which outputs are labels and probabilities.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from batching.collation import group_of
from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tasks.image_input import read_labels
from model_runtime.tasks.task import PreparedRow, Task, refuse_unknown
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

MAX_NAMED: Final = 20  # columns in a message
# kind of a numpy type → Python types of its values, and their name in messages
_TYPES: Final[dict[str, tuple[frozenset[type], str]]] = {
    "f": (frozenset({int, float, bool, type(None)}), "a number, or null if it is missing"),
    "i": (frozenset({int, bool}), "a whole number"),
    "u": (frozenset({int, bool}), "a whole number from 0"),
    "b": (frozenset({bool}), "true or false"),
    "O": (frozenset({str, type(None)}), "text, or null for an empty one"),
}


class Column(NamedTuple):
    """One column of a row, and the datatype of the input that it goes to."""

    name: str
    datatype: str

    def card(self) -> dict[str, str]:
        """Return the entry of this column in the model card."""
        return self._asdict()


class TabularTask(Task):
    """`task = "tabular"`: inputs of one column each, or of a vector of columns.

    Takes `{"features": {name: value}}`, `{"row": [value, ...]}`, or `{"rows": [...]}` of either. A missing number is
    null. Returns {"label", "probabilities": {label: number}} for a classifier, {"value": number} or {"values": [...]}
    for a model of one output of numbers, {"outputs": {name: ...}} for others; `rows` returns {"rows": [...]} of these.
    """

    kinds = frozenset({"json"})
    input_fields = ("features", "row", "rows")
    offload = False
    takes_rows = True

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        self._file, names = folder / SPEC_FILE, spec.tabular.columns
        self.inputs = [self._with_width(each, names) for each in inputs]
        self.row_shapes = {each.name: each.shape for each in self.inputs}
        widths = [prod(each.shape) for each in self.inputs]
        is_named = names is not None or set(widths) == {1}
        datatypes = [each.datatype for each, width in zip(self.inputs, widths, strict=True) for _ in range(width)]
        if names is not None and len(names) != len(datatypes):
            reason = f"{len(names)} names, but the model takes {len(datatypes)} columns; allowed: one name for each"
            raise ModelError(self._file, "tabular.columns", reason)
        if names is None:
            names = tuple(
                each.name if width == 1 else f"{each.name}[{at}]"
                for each, width in zip(self.inputs, widths, strict=True)
                for at in range(width)
            )
        self.columns = [*map(Column, names, datatypes)]
        self._positions = {name: at for at, name in enumerate(names)} if is_named else {}
        ends = np.cumsum(widths).tolist()
        self._slices = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        self.row_group = group_of({each.name: each.zeros(each.shape) for each in self.inputs})
        self._label, self._probabilities = _find_classifier(outputs)
        self._labels = self._class_labels()
        self.label_count = None if self._labels is None else len(self._labels)

    def named_columns(self) -> Sequence[Column]:
        """Return the columns, if a caller may name them; none if a row of values is the only way."""
        return self.columns if self._positions else ()

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:  # noqa: ARG002 (one kind)
        """Return the arrays of `features` or `row`. Raises Refused, which names the column."""
        refuse_unknown(parameters, ())
        ((_, row),) = orjson.loads(data).items()
        return self._arrays(row)

    def preprocess_rows(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> list[PreparedRow]:  # noqa: ARG002 (counted by the gateway)
        """Return the arrays of each of `rows`. Raises Refused, which names the column, with the row in its details."""
        refuse_unknown(parameters, ())
        prepared: list[PreparedRow] = []
        try:
            for row in orjson.loads(data)["rows"]:
                prepared.append((self._arrays(row), parameters))  # noqa: PERF401 (its length is the row that failed)
        except Refused as error:
            error.details["row"] = len(prepared)
            raise
        return prepared

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 (none)
        """Return the answer for one row."""
        if self._label is None and self._probabilities is None:
            return self._numbers(outputs)
        answer: dict[str, Any] = {}
        numbers = None if self._probabilities is None else outputs[self._probabilities.name].ravel()
        if self._label is not None:
            label = outputs[self._label.name].ravel()[0]
            answer["label"] = label if isinstance(label, str) else label.item()
        elif numbers is not None and self._labels is not None:
            answer["label"] = self._labels[int(np.argmax(numbers))]
        if numbers is not None:
            answer["probabilities"] = numbers if self._labels is None else dict(zip(self._labels, numbers, strict=True))
        return answer

    def encode_batch(self, outputs: Mapping[str, Array], parameters: Sequence[Mapping[str, Any]]) -> list[bytes] | None:
        """Return the JSON of each row of a batch; None if some have parameters."""
        if any(parameters):
            return None
        count = len(outputs[self.outputs[0].name])
        rows = ({name: array[at, ...] for name, array in outputs.items()} for at in range(count))
        return [orjson.dumps(self.postprocess(row, {}), _to_list, orjson.OPT_SERIALIZE_NUMPY) for row in rows]

    def _arrays(self, row: Any) -> dict[str, Array]:
        values = self._values(row)
        return {
            each.name: self._to_array(each, values[part], part.start)
            for each, part in zip(self.inputs, self._slices, strict=True)
        }

    def _values(self, row: Any) -> Sequence[Any]:
        """Return a row's values in the order of the columns."""
        if isinstance(row, dict):
            return self._named_values(row)
        if not isinstance(row, list):
            raise Refused("invalid_input", f"a row is a list of values or an object, not {describe_value(row)}")
        if len(row) != len(self.columns):
            message = f"the row has {len(row)} values; the model takes {len(self.columns)}: {self._listed()}"
            raise Refused("invalid_input", message)
        return row

    def _named_values(self, row: Mapping[str, Any]) -> Sequence[Any]:
        if not self._positions:
            message = f"the model's columns have no names: send a row of {len(self.columns)} values"
            raise Refused("invalid_input", f"{message}, or name them in model.toml ([tabular] columns)")
        if row.keys() != self._positions.keys():
            missing = [name for name in self._positions if name not in row]
            unknown = [*map(describe_value, (name for name in row if name not in self._positions))]
            found = [f"misses {', '.join(missing[:MAX_NAMED])}"] if missing else []
            found += [f"has the unknown {', '.join(unknown[:MAX_NAMED])}"] if unknown else []
            raise Refused("invalid_input", f"the row {' and '.join(found)}; its columns are {self._listed()}")
        return [row[name] for name in self._positions]

    def _listed(self) -> str:
        names = [column.name for column in self.columns]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        return ", ".join(names[:MAX_NAMED]) + more

    def _to_array(self, spec: TensorSpec, values: Sequence[Any], first: int) -> Array:
        """Return the values of an input. `first`: its first column, for messages. Raises Refused."""
        dtype, types = DTYPES[spec.datatype], {*map(type, values)}
        if not types <= _TYPES[dtype.kind][0]:
            raise self._invalid_value(spec, values, first)
        if type(None) in types:
            missing: Any = np.nan if dtype.kind == "f" else ""
            values = [missing if value is None else value for value in values]
        try:
            with np.errstate(over="ignore"):
                array = np.array(values, dtype)
        except OverflowError as error:
            raise self._invalid_value(spec, values, first) from error
        if dtype.kind == "f" and np.isinf(array).any():  # JSON has no infinity: a value is too large
            raise self._invalid_value(spec, values, first)
        return array.reshape(spec.shape)

    def _invalid_value(self, spec: TensorSpec, values: Sequence[Any], first: int) -> Refused:
        """Return the error that names the first value of a wrong type or out of range."""
        allowed, description = _TYPES[DTYPES[spec.datatype].kind]
        for at, value in enumerate(values):
            column = f"column {self.columns[first + at].name!r}"
            if type(value) not in allowed:
                return Refused("invalid_input", f"{column} takes {description}, not {describe_value(value)}")
            if not _fits(value, spec.datatype):
                reason = f"{describe_value(value)} is out of range for {spec.datatype}"
                return Refused("invalid_input", f"{column}: {reason}")
        return Refused("invalid_input", f"a value does not fit {spec.datatype}")

    def _numbers(self, outputs: Mapping[str, Array]) -> dict[str, Any]:
        shown = {name: array.ravel() if array.size == 1 else array for name, array in outputs.items()}
        values = {name: array[0] if array.size == 1 else array for name, array in shown.items()}
        if len(values) > 1:
            return {"outputs": values}
        (value,) = values.values()
        return {"values" if isinstance(value, np.ndarray) else "value": value}

    def _with_width(self, spec: TensorSpec, names: Sequence[str] | None) -> TensorSpec:
        """Return the spec of an input with a definite shape. Raises ModelError for inputs that are no columns."""
        if len(spec.shape) <= 1 and -1 not in spec.shape:
            return spec
        if spec.shape == (-1,) and len(self.inputs) == 1 and names is not None:
            return spec._replace(shape=(len(names),))
        reason = f"input {spec.name!r} is {spec.datatype} {list(spec.shape)} per row"
        if spec.shape == (-1,):
            raise ModelError(self._file, "tabular.columns", f"missing, and {reason}; allowed: a name for each column")
        raise ModelError(self._file, "task", f"{reason}; allowed for tabular: one value, or a vector of them")

    def _class_labels(self) -> list[str] | None:
        """Return the names of the probabilities: of `labels`, or of the model. Raises ModelError."""
        labels = read_labels(self._file, self.folder, "tabular.labels", self.spec.tabular.labels)
        if self._probabilities is None:
            if labels is not None:
                reason = "the model has no output of probabilities; allowed: no such key"
                raise ModelError(self._file, "tabular.labels", reason)
            return None
        count = prod(self._probabilities.shape)
        if labels is not None and len(labels) != count:
            reason = f"{len(labels)} labels, but the model has {count} classes; allowed: one line per class"
            raise ModelError(self.folder / str(self.spec.tabular.labels), None, reason)
        return labels or [*map(str, self._probabilities.labels)] or None


def _find_classifier(outputs: Sequence[TensorSpec]) -> tuple[TensorSpec | None, TensorSpec | None]:
    """Return the outputs that are a classifier's label and probabilities; None for what there is not."""
    labels = [each for each in outputs if DTYPES[each.datatype].kind in "iuO" and prod(each.shape) == 1]
    numbers = [each for each in outputs if DTYPES[each.datatype].kind == "f" and len(each.shape) == 1]
    if len(labels) == 1 and len(outputs) == 1 + len(numbers) <= 2:
        return labels[0], numbers[0] if numbers else None
    if len(outputs) == len(numbers) == 1 and numbers[0].labels:
        return None, numbers[0]
    return None, None


def _fits(value: Any, datatype: str) -> bool:
    """Return whether a value of a right type is in the range of a datatype."""
    dtype = DTYPES[datatype]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return bool(limits.min <= value <= limits.max)
    return dtype.kind != "f" or value is None or abs(value) <= float(np.finfo(dtype).max)


def _to_list(value: Any) -> Any:
    """Convert what orjson does not encode: texts, half floats, and arrays that are not contiguous."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value).__name__)
