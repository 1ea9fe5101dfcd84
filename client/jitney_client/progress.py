"""Shows progress as a bar of tqdm, which is optional."""

from operator import length_hint
from typing import Any, Protocol


class Bar(Protocol):
    """What shows the progress."""

    def update(self, n: int) -> object:
        """Note that `n` more are done."""

    def close(self) -> None:
        """Stop to show it."""


class NoBar:
    """Shows nothing."""

    def update(self, n: int) -> None:
        pass

    def close(self) -> None:
        pass


def open_bar(work: Any, what: str, *, wanted: bool) -> Bar:
    """Return a bar, or one that shows nothing. `work`: a number, or an iterable that may know its length."""
    if not wanted:
        return NoBar()
    try:
        from tqdm import tqdm  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install "jitney-client[progress]"') from error
    total = work if isinstance(work, int) else length_hint(work, 0)
    bar: Bar = tqdm(total=total or None, desc=what, unit="job", dynamic_ncols=True)
    return bar
