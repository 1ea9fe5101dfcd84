"""Prints the progress and messages of a bulk run: a bar on a terminal, otherwise a line every 10 seconds."""

import sys
import time
from typing import TYPE_CHECKING, Any, Final

from cli.bulk.results.results_journal import RunState

if TYPE_CHECKING:
    from tqdm import tqdm

PRINT_INTERVAL_S: Final = 10.0


class Progress:
    """Shows the state of one run."""

    def __init__(self, state: RunState, *, quiet: bool) -> None:
        self._state, self._resumed_lines, self._began_at = state, state.lines, time.monotonic()
        self._printed_at, self._problem = time.monotonic(), ""
        self._quiet = quiet
        self._bar = self._create_bar() if sys.stderr.isatty() and not quiet else None

    def _create_bar(self) -> "tqdm[Any]":
        from tqdm import tqdm  # noqa: PLC0415 (without tqdm, `--help` still works)

        state = self._state
        bar_format = "{percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} {rate_fmt} ETA {remaining}{postfix}"
        if state.total is None:
            bar_format = "{n_fmt} {rate_fmt} in {elapsed}{postfix}"
        look: dict[str, Any] = {"bar_format": bar_format, "unit": "", "dynamic_ncols": True, "smoothing": 0.05}
        return tqdm(total=state.total, initial=state.lines, **look)

    def update(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self._summary(), refresh=False)
            self._bar.update(self._state.lines - self._bar.n)
        elif not self._quiet and time.monotonic() - self._printed_at >= PRINT_INTERVAL_S:
            self._printed_at = time.monotonic()
            print_message(f"{self._done()}, {self._rate():.0f}/s{self._eta()}, {self._summary()}")

    def on_problem(self, text: str) -> None:
        """Show what delays the run; an empty text means that it continues."""
        self._problem = text
        if self._bar is not None:
            self._bar.set_postfix_str(self._summary())
        elif text:
            print_message(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _done(self) -> str:
        total = self._state.total
        return f"{self._state.lines}" if total is None else f"{self._state.lines}/{total}"

    def _rate(self) -> float:
        return (self._state.lines - self._resumed_lines) / max(1e-9, time.monotonic() - self._began_at)

    def _eta(self) -> str:
        total, rate = self._state.total, self._rate()
        return f", ETA {(total - self._state.lines) / rate:.0f} s" if total and rate else ""

    def _summary(self) -> str:
        batch = f", mean batch {self._state.mean_batch:.1f}" if self._state.ran else ""
        problem = f", {self._problem[:60]}" if self._problem and self._bar is not None else ""
        return f"{self._state.failures} failed{batch}{problem}"


def print_message(line: str) -> None:
    print(f"jitney bulk: {line}", file=sys.stderr, flush=True)
