"""What the person at the terminal sees: a bar, or a line now and then where nobody watches a terminal."""

import sys
import time
from typing import Any, Final

from tqdm import tqdm

from cli.bulk.results.results_journal import RunState

PRINT_INTERVAL_S: Final = 10.0


class Progress:
    """Shows a run's state as it grows."""

    def __init__(self, state: RunState, *, quiet: bool) -> None:
        self._state, self._began_with, self._began_at = state, state.lines, time.monotonic()
        self._printed_at, self._trouble, self._bar = time.monotonic(), "", None
        self._quiet = quiet
        if sys.stderr.isatty() and not quiet:
            self._bar = self._draw()

    def _draw(self) -> "tqdm[Any]":
        state = self._state
        form = "{percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} {rate_fmt} ETA {remaining}{postfix}"
        if state.total is None:
            form = "{n_fmt} {rate_fmt} in {elapsed}{postfix}"
        return tqdm(
            total=state.total, initial=state.lines, bar_format=form, unit="", dynamic_ncols=True, smoothing=0.05
        )

    def update(self) -> None:
        """Show how far it is now."""
        if self._bar is not None:
            self._bar.set_postfix_str(self._words(), refresh=False)
            self._bar.update(self._state.lines - self._bar.n)
        elif not self._quiet and time.monotonic() - self._printed_at >= PRINT_INTERVAL_S:
            self._printed_at = time.monotonic()
            print_message(f"{self._far()}, {self._rate():.0f}/s{self._eta()}, {self._words()}")

    def on_problem(self, words: str) -> None:
        """Hear what holds the run up; nothing when it goes on."""
        self._trouble = words
        if self._bar is not None:
            self._bar.set_postfix_str(self._words())
        elif words:
            print_message(words)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _far(self) -> str:
        total = self._state.total
        return f"{self._state.lines}" if total is None else f"{self._state.lines}/{total}"

    def _rate(self) -> float:
        return (self._state.lines - self._began_with) / max(1e-9, time.monotonic() - self._began_at)

    def _eta(self) -> str:
        total, rate = self._state.total, self._rate()
        return f", ETA {(total - self._state.lines) / rate:.0f} s" if total and rate else ""

    def _words(self) -> str:
        batch = f", mean batch {self._state.mean_batch:.1f}" if self._state.ran else ""
        trouble = f", {self._trouble[:60]}" if self._trouble and self._bar is not None else ""
        return f"{self._state.failures} failed{batch}{trouble}"


def print_message(line: str) -> None:
    """Tell the person at the terminal."""
    print(f"jitney bulk: {line}", file=sys.stderr, flush=True)
