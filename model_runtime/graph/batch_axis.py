"""Define the position of the batch in a tensor, and the errors of the batch axis analysis."""

from typing import NamedTuple


class BatchAxis(NamedTuple):
    """The batch is in dimension `axis`. `group`: consecutive entries there per row (batch folded with time, say)."""

    axis: int = 0
    group: int = 1


class BatchSizeValues(NamedTuple):
    """Values computed from the batch size, such as a target shape."""


AxisState = BatchAxis | BatchSizeValues | None  # None: independent of the batch


class RowsCoupled(Exception):
    """The operator makes one row's result depend on other rows. The message says how."""


class WrongBatchAxis(RowsCoupled):
    """The operator expects the batch in another dimension."""


class RandomValues(Exception):
    """The operator returns other values at each run. The message says so."""


class FixedBatchSize(Exception):
    """The graph contains a fixed batch size that cannot be removed safely. The message says where."""


class Undetermined(Exception):
    """The analysis does not know an operator or a shape. The message says which."""
