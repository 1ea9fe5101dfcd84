"""Chooses items of similar length for a batch, as padding takes as much time as content.

Pure code. The unit of length and of cost is one place along the padded axis: a token, for text.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

# A batch is good if its share of content is at least this part of the best one; of the good ones the largest is chosen.
SHARE_TOLERANCE: Final = 0.98


def choose_neighbours(lengths: Sequence[float], max_items: int, max_cost: float, run_overhead: float) -> list[int]:
    """Return the indices of the items to run next, in order of arrival; the first item is always among them.

    A batch of n items that are padded to the length L costs `run_overhead + n * L`. Of all batches of neighbours in
    length around the first item, the one with the most content for its cost is chosen, or a larger one that is nearly
    as good. A larger `run_overhead` allows more padding; with 0, about 2 % of a batch is.

    `lengths`: by arrival, each as it is when run alone. `max_cost`: the most of n * L; one item may exceed it.
    """
    if min(lengths) == max(lengths):
        return list(range(max(1, min(len(lengths), max_items, int(min(max_cost / lengths[0], max_items))))))
    known = np.asarray(lengths, np.float64)
    order = known.argsort(kind="stable")
    ascending, first = known[order], int(order.argmin())  # the index 0 is the first item
    # Batches by row, their first item in ascending order, and by column, their last one.
    starts, ends = np.arange(first + 1)[:, np.newaxis], np.arange(first, len(known))
    counts, sums = ends - starts + 1, ascending.cumsum()
    cost = counts * ascending[first:]
    shares = (sums[first:] - sums[: first + 1, np.newaxis] + ascending[: first + 1, np.newaxis]) / (run_overhead + cost)
    if len(known) > max_items or cost[0, -1] > max_cost:
        shares[(counts > max_items) | ((cost > max_cost) & (counts > 1))] = -1
    # Shares are at most 1, so they only decide between batches of one size.
    best = int((counts * (shares >= SHARE_TOLERANCE * shares.max()) + shares / 2).argmax())
    row, column = divmod(best, len(ends))
    return sorted(order[row : first + column + 1].tolist())
