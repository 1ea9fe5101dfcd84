"""Computes when the next webhook attempt is due. Pure: takes time and randomness as arguments."""

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 36_000.0  # longest delay that a receiver may request


def next_delay_s(delays_s: Sequence[float], made: int, min_s: float, chance: float, jitter: float) -> float | None:
    """Return the seconds until the next attempt after `made` attempts, or None if there is none. `chance` is 0 to 1.

    The delay is never shorter than `min_s`, which the receiver requested.
    """
    if made >= len(delays_s):
        return None
    return max(delays_s[made] * (1 + jitter * (2 * chance - 1)), min_s)


def parse_retry_after(text: str, now_s: float) -> float:
    """Return the seconds of a Retry-After header (seconds or a date); 0 if it cannot be parsed."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, until_s - now_s), MAX_RETRY_AFTER_S)
