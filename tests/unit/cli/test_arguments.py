"""Command-line numbers that are invalid or out of bounds are refused with the allowed range."""

import argparse

import pytest

from cli import arguments


@pytest.mark.parametrize("text", ["0.01", "1e1", "3600"])
def test_a_number_within_bounds_is_accepted(text: str) -> None:
    assert arguments.float_between(0.01, 3600)(text) == float(text)


@pytest.mark.parametrize("text", ["0", "3600.1", "nan", "inf", "-1", "ten", "", "1,5"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a number from 0\.01 to 3600"):
        arguments.float_between(0.01, 3600)(text)


@pytest.mark.parametrize("text", ["0", "7", "08"])
def test_an_integer_within_bounds_is_accepted(text: str) -> None:
    assert arguments.int_between(0, 8)(text) == int(text)


@pytest.mark.parametrize("text", ["9", "-1", "1.5", "²", "", "1" * 5000])
def test_other_integers_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be an integer from 0 \(all\) to 8"):
        arguments.int_between(0, 8, "all")(text)
