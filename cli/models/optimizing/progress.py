"""What the person at the terminal sees while it works: a bar for each stage that is long, on a terminal alone."""

from collections.abc import Iterable, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Progress:
    """Shows stages, one after the other."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def over(self, words: str, items: Iterable[T]) -> Iterable[T]:
        """Hand on the items, and show how far it is."""
        # None: shown where somebody watches a terminal.
        total = len(items) if isinstance(items, Sized) else None
        return tqdm(
            items, words, total, leave=False, disable=True if self._quiet else None, unit="", dynamic_ncols=True
        )
