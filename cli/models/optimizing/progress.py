"""Shows a progress bar for each long stage of `jitney models optimize`, only on a terminal."""

from collections.abc import Iterable, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Progress:
    """Shows the progress of stages."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def track(self, label: str, items: Iterable[T]) -> Iterable[T]:
        """Iterate over items and show the progress."""
        # disable=None shows the bar only on a terminal.
        total = len(items) if isinstance(items, Sized) else None
        return tqdm(
            items, label, total, leave=False, disable=True if self._quiet else None, unit="", dynamic_ncols=True
        )
