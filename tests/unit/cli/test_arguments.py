"""Numbers on a command line: what is out of bounds, or no number, is refused with what is allowed."""

import argparse

import pytest

from cli import arguments


@pytest.mark.parametrize("text", ["0.01", "1e1", "3600"])
def test_a_number_within_bounds(text: str) -> None:
    assert arguments.float_between(0.01, 3600)(text) == float(text)


@pytest.mark.parametrize("text", ["0", "3600.1", "nan", "inf", "-1", "ten", "", "1,5"])
def test_no_number_within_bounds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a number from 0\.01 to 3600"):
        arguments.float_between(0.01, 3600)(text)


@pytest.mark.parametrize("text", ["0", "7", "08"])
def test_a_whole_number_within_bounds(text: str) -> None:
    assert arguments.int_between(0, 8)(text) == int(text)


@pytest.mark.parametrize("text", ["9", "-1", "1.5", "²", "", "1" * 5000])
def test_no_whole_number_within_bounds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be an integer from 0 \(all\) to 8"):
        arguments.int_between(0, 8, "all")(text)
