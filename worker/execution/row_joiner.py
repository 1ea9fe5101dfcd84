"""Holds the state of a job of several rows: the outputs joined in order, its times, whether it has ended.

The rows may ride in different batches. Outputs are joined as stacked arrays, or as a list of JSON answers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from batching.collation import Arrays, CollationError
from jobs.contract.errors import Refused


class RowJoiner:
    """The outputs of one claim of a job of several rows. `has_ended`: the job has an outcome; the rest is dropped.

    Times in ms: `decode_ms` of the input, `infer_ms` of all batches that had rows of the job, `batch_ms` the other time
    from the claim to the start of the last of them. `batch_size`: of the largest of them.
    """

    def __init__(self, rows: int, max_output_bytes: int) -> None:
        """Create a joiner. `max_output_bytes`: the model's limit on the JSON of an output, which bounds the memory."""
        self.rows, self.has_ended = rows, False
        self.decode_ms = self.batch_ms = self.infer_ms = 0.0
        self.device_ms = 0.0  # the rows' shares of the times of their batches
        self.batch_size = 0
        self.keys: list[str] = []  # of the job's items (pending_items.py), with that of its first row
        self._max_output_bytes = max_output_bytes
        self.outputs: dict[str, NDArray[Any]] = {}  # with the rows as their first dimension
        self._answers, self._answer_bytes = list[bytes](), 0
        self._missing: set[int] | None = None  # rows; None: none has come yet
        self._last_started_ms = -1.0

    def end(self) -> bool:
        """Record that the job has an outcome; returns whether it is the first one."""
        is_first, self.has_ended = not self.has_ended, True
        return is_first

    def add(self, row: int, outputs: Arrays, started_ms: float, infer_ms: float, batch_size: int) -> bool:
        """Add the outputs of a row, without the batch dimension, otherwise as `add_rows`."""
        stacked = {name: array[np.newaxis] for name, array in outputs.items()}
        return self.add_rows(row, 1, stacked, started_ms, infer_ms, batch_size)

    def add_rows(  # noqa: PLR0917
        self, row: int, count: int, outputs: Arrays, started_ms: float, infer_ms: float, batch_size: int
    ) -> bool:
        """Add the stacked outputs of `count` rows from `row` on; returns whether all rows are there.

        `started_ms`: when the batch began, since the claim. Raises Refused if the outputs are too large,
        CollationError if their shapes or types differ from those of an earlier row.
        """
        if not self.outputs:
            self._check_size(outputs)
            if count == self.rows:
                self.outputs = dict(outputs)
                return self._record(row, started_ms, infer_ms, batch_size, count)
            self._allocate(outputs)
        for name, array in outputs.items():
            joined = self.outputs[name]
            if (array.shape[1:], array.dtype) != (joined.shape[1:], joined.dtype):
                own, first = (f"{each.dtype} {list(each.shape[1:])}" for each in (array, joined))
                message = f"output {name!r} of this row is {own}, and that of an earlier row {first}"
                raise CollationError(f"{message}: send one job for each row")
            joined[row : row + count] = array
        return self._record(row, started_ms, infer_ms, batch_size, count)

    def add_answer(self, row: int, answer: bytes, started_ms: float, infer_ms: float, batch_size: int) -> bool:
        """Add the JSON answer of a row, otherwise as `add`."""
        self._answers = self._answers or [b""] * self.rows
        self._answer_bytes += len(answer) - len(self._answers[row])
        if self._answer_bytes > self._max_output_bytes:
            raise self._too_large()
        self._answers[row] = answer
        return self._record(row, started_ms, infer_ms, batch_size, 1)

    def joined_answers(self) -> bytes:
        """Return the output of the job, from the answers of all rows."""
        return b'{"rows":[' + b",".join(self._answers) + b"]}"

    def _record(self, row: int, started_ms: float, infer_ms: float, batch_size: int, count: int) -> bool:
        """Add the times of the batch of `count` rows; returns whether all rows are there."""
        if started_ms != self._last_started_ms:  # the first row of its batch
            self._last_started_ms = started_ms
            self.batch_ms = max(0.0, started_ms - self.decode_ms - self.infer_ms)
            self.infer_ms += infer_ms
            self.batch_size = max(self.batch_size, batch_size)
        if self._missing is None and count == self.rows:
            self.device_ms += infer_ms * count / batch_size
            self._missing = set()
            return True
        missing = set(range(self.rows)) if self._missing is None else self._missing
        new = missing.intersection(range(row, row + count))
        self.device_ms += infer_ms * len(new) / batch_size
        self._missing = missing - new
        return not self._missing

    def _too_large(self) -> Refused:
        message = f"the output has more than {self._max_output_bytes} bytes, the limit of its model (max_output_bytes)"
        return Refused("output_too_large", message, limit=self._max_output_bytes)

    def _check_size(self, outputs: Arrays) -> None:
        sizes = [array.size // (len(array) or 1) for array in outputs.values()]
        if self.rows * sum(sizes) > self._max_output_bytes:  # a value takes a byte
            raise self._too_large()

    def _allocate(self, outputs: Arrays) -> None:
        self.outputs = {name: np.empty((self.rows, *array.shape[1:]), array.dtype) for name, array in outputs.items()}
