"""Formats of audio files are told by their first bytes alone."""

import pytest

from jobs.contract.audio_formats import detect_format, tag_size
from tests.support.model_files import audio

TONE = audio.sine(440)
TAG = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)


@pytest.mark.parametrize(
    ("file_format", "encoding", "expected"),
    [
        ("WAV", "PCM_16", "WAV"),
        ("WAVEX", "FLOAT", "WAV"),
        ("FLAC", None, "FLAC"),
        ("OGG", "VORBIS", "OGG"),
        ("OGG", "OPUS", "OGG"),
        ("MP3", None, "MP3"),
        ("AIFF", None, None),
        ("AU", None, None),
        ("CAF", None, None),
        ("RF64", None, None),
        ("W64", None, None),
        ("RAW", "PCM_16", None),
    ],
)
def test_accepted_formats_are_found(file_format: str, encoding: str | None, expected: str | None) -> None:
    data = audio.encode(TONE, audio.RATE, file_format, encoding)
    assert detect_format(data) == expected
    assert detect_format(TAG + data) == expected


@pytest.mark.parametrize(
    "data",
    [b"", b"ID3", b"RIFF", b"RIFF\0\0\0\0WEBPVP8 ", b"\xff\xd8\xff\xe0", b"\xff\xf1\x50\x80", b"\xff\xfd\x90\x64"],
)
def test_other_files_have_no_format(data: bytes) -> None:
    """The last ones are AAC and MP2, whose frames begin as those of MP3 do but for the layer."""
    assert detect_format(data) is None


def test_the_size_of_a_tag_is_its_own() -> None:
    assert tag_size(TAG) == len(TAG) == 138
    assert tag_size(TAG[:5] + b"\x10" + TAG[6:]) == 148  # it has a footer
    assert detect_format(TAG[:60]) == "MP3"  # what is behind the tag cannot be told
