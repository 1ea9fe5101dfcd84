"""Where the rows of a batch are in a tensor, and the three ways in which they can be lost."""

from typing import NamedTuple


class BatchAxis(NamedTuple):
    """`axis` holds the batch; `each`: how many neighbouring places there belong to one row (batch and time folded)."""

    axis: int = 0
    each: int = 1


class BatchSizeValues(NamedTuple):
    """Numbers made of the batch size, such as the shape that a tensor shall have."""


AxisState = BatchAxis | BatchSizeValues | None  # None: the same whatever the batch


class RowsCoupled(Exception):
    """The operator lets one row's answer depend on another row. Says how."""


class WrongBatchAxis(RowsCoupled):
    """The operator takes another dimension for the batch than the one it is in."""


class FixedBatchSize(Exception):
    """The batch size is written into the graph in a way that can not be undone for certain. Says how."""


class Undetermined(Exception):
    """Nothing can be said for certain: an operator, or a shape, that the doctor does not know. Says which."""
