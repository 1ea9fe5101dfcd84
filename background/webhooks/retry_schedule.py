"""When the next attempt is due. Pure: owns no clock and no dice."""

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 36_000.0  # a receiver may ask for quiet, not for silence


def next_delay_s(waits_s: Sequence[float], made: int, rest_s: float, chance: float, jitter: float) -> float | None:
    """Seconds until the next attempt after `made` of them; None: there is none. `chance` is 0 to 1.

    What the receiver asked for (`rest_s`) is kept in full.
    """
    if made >= len(waits_s):
        return None
    return max(waits_s[made] * (1 + jitter * (2 * chance - 1)), rest_s)


def parse_retry_after(text: str, now_s: float) -> float:
    """Read a Retry-After header, seconds or a date; 0 where it says nothing that can be read."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, until_s - now_s), MAX_RETRY_AFTER_S)
