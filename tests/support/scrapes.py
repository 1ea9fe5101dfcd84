"""Reads Prometheus' text format."""

import re
from collections.abc import Mapping

import httpx2

Samples = dict[str, float]


def parse(text: str) -> Samples:
    """Return the samples of an exposition by name and labels."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def scrape(client: httpx2.Client, path: str = "/metrics") -> Samples:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


def select(samples: Mapping[str, float], family: str) -> Samples:
    """Return the samples of one name by their labels, as `a="1",b="2"`."""
    pattern = re.compile(re.escape(family) + r"(?:\{(.*)\})?")
    return {match[1] or "": value for name, value in samples.items() if (match := pattern.fullmatch(name))}
