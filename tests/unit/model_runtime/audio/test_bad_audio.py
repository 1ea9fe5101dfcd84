"""Audio beyond a limit, and damaged files: each is refused with the limit, or read as far as it goes."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.contract.errors import Refused
from model_runtime.audio.decode import decode_audio
from tests.support.model_files.audio import RATE, encode, sine

TONE = sine(440, 2)
WAV = encode(TONE)
SIZE_AT = WAV.index(b"data") + 4  # of the samples' bytes
ENCODINGS = "PCM_U8, PCM_16, PCM_24, PCM_32, FLOAT, DOUBLE, ULAW, ALAW"
SEEDS = [
    encode(np.random.default_rng(3).uniform(-0.3, 0.3, (6000, 2)), rate, file_format, encoding)
    for file_format, encoding, rate in (
        ("WAV", "PCM_16", RATE),
        ("WAVEX", "FLOAT", RATE),
        ("FLAC", "PCM_16", RATE),
        ("OGG", "VORBIS", RATE),
        ("OGG", "OPUS", RATE),
        ("MP3", None, 44_100),
    )
]


def refusal(data: bytes, seconds: float = 60) -> Refused:
    with pytest.raises(Refused) as caught:
        decode_audio(data, RATE, round(seconds * RATE))
    return caught.value


def patched(at: int, form: str, value: int, data: bytes = WAV) -> bytes:
    packed = struct.pack(form, value)
    return data[:at] + packed + data[at + len(packed) :]


@pytest.mark.parametrize(
    ("data", "code", "message", "limit"),
    [
        (encode(TONE, 1), "invalid_audio", "the audio has a sample rate of 1 Hz; allowed: 1000 to 384000", 1000),
        (
            encode(TONE, 10_000_000),
            "invalid_audio",
            "the audio has a sample rate of 10000000 Hz; allowed: 1000 to 384000",
            384_000,
        ),
        (encode(np.zeros((9, 255))), "invalid_audio", "the audio has 255 channels; allowed: 1 to 8", 8),
        (encode(np.zeros(0)), "invalid_audio", "the audio has no samples", None),
        (WAV[: SIZE_AT + 4], "invalid_audio", "the audio has no samples", None),
        (
            encode(np.zeros(1), 384_000),
            "invalid_audio",
            "the audio has 1 samples at 384000 Hz, which is none at 16000 Hz",
            None,
        ),
        (encode(np.zeros(61), 1000), "audio_too_long", "the audio lasts longer than 0.06 s, the limit", 0.06),
        (
            encode(np.array([0, np.nan]), RATE, "WAV", "FLOAT"),
            "invalid_audio",
            "the audio has a sample that is not a number",
            None,
        ),
        (
            encode(TONE, RATE, "WAV", "IMA_ADPCM"),
            "unsupported_media_type",
            f"the WAV file is WAV with the encoding IMA_ADPCM; allowed: {ENCODINGS}",
            None,
        ),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(99),
            "unsupported_media_type",
            "the first bytes are not those of a supported audio format; allowed: WAV, FLAC, OGG, MP3",
            None,
        ),
    ],
    ids=["rate", "high rate", "channels", "empty", "header", "too short", "long", "NaN", "encoding", "format"],
)
def test_each_limit_is_named(data: bytes, code: str, message: str, limit: float | None) -> None:
    refused = refusal(data, 0.06 if code == "audio_too_long" else 60)
    assert (refused.code, refused.message, refused.details.get("limit")) == (code, message, limit)


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_an_hour_is_refused(file_format: str) -> None:
    """At 1 kHz of silence, or the lowest rate that the format has, so that it is made in a moment."""
    rate = 1000 if file_format in {"WAV", "FLAC"} else 8000
    hour = encode(np.zeros(3600 * rate, np.int16), rate, file_format)
    refused = refusal(hour)
    assert (refused.code, refused.message) == ("audio_too_long", "the audio lasts longer than 60 s, the limit")
    assert refused.details == {"limit": 60}


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, len(WAV) * 2])
def test_a_wav_that_claims_more_than_it_has_is_read_as_far_as_it_goes(claimed: int) -> None:
    """As programs write that do not know the length yet, such as into a pipe."""
    streamed = patched(4, "<I", 0xFFFFFFFF, patched(SIZE_AT, "<I", claimed))
    assert np.array_equal(decode_audio(streamed, RATE, 60 * RATE).samples, decode_audio(WAV, RATE, 60 * RATE).samples)
    assert refusal(streamed, 1).code == "audio_too_long"


def test_a_wav_that_claims_less_ends_there() -> None:
    """What is behind the samples may be other chunks."""
    samples = decode_audio(patched(SIZE_AT, "<I", 1000), RATE, 60 * RATE).samples
    assert np.array_equal(samples, decode_audio(WAV, RATE, 60 * RATE).samples[:500])


@pytest.mark.parametrize("total", [0, 1 << 35])
def test_a_flac_without_a_true_length_is_read_as_far_as_it_goes(total: int) -> None:
    data = encode(TONE, RATE, "FLAC")
    fields = int.from_bytes(data[18:26], "big")  # rate, channels, bits, and 36 bits of the number of samples
    streamed = data[:18] + ((fields >> 36 << 36) | total).to_bytes(8, "big") + data[26:]
    assert np.array_equal(decode_audio(streamed, RATE, 60 * RATE).samples, decode_audio(data, RATE, 60 * RATE).samples)
    behind = decode_audio(data + b"TAG" + bytes(125), RATE, 60 * RATE).samples
    assert len(behind) == len(TONE)


@pytest.mark.parametrize(("file_format", "encoding"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_a_stream_that_breaks_off_is_read_up_to_there(file_format: str, encoding: str | None) -> None:
    data = encode(sine(440, 20), RATE, file_format, encoding)
    samples = decode_audio(data[: len(data) // 2], RATE, 60 * RATE).samples
    assert 5 * RATE < len(samples) < 15 * RATE


DAMAGED = {
    "WAV, 30 bytes": WAV[:30],
    "WAV, no channel": patched(22, "<H", 0),
    "WAV, 65,535 channels": patched(22, "<H", 65535),
    "WAV, 0 Hz": patched(24, "<I", 0),
    "FLAC, broken off": encode(TONE, RATE, "FLAC")[:9000],
    "FLAC, 50 bytes": encode(TONE, RATE, "FLAC")[:50],
    "OGG, 50 bytes": encode(TONE, RATE, "OGG")[:50],
    "MP3, 50 bytes": encode(TONE, RATE, "MP3")[:50],
    "MP3, a frame and junk": b"\xff\xfb\x90\x64" + b"\xaa" * 9000,
    "MP3, headers only": b"\xff\xfb\x90\x64" * 100_000,
    "ID3, longer than the file": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(name: str) -> None:
    refused = refusal(DAMAGED[name])
    assert refused.code == "invalid_audio"
    assert refused.message.endswith("data is damaged or truncated and cannot be decoded")


@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), max_size=5),
    end=st.one_of(st.none(), st.integers(0, 1 << 16)),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files_give_samples_or_a_refusal(seed: bytes, edits: list[tuple[int, bytes]], end: int | None) -> None:
    data = bytearray(seed)
    for at, replacement in edits:
        start = at % len(data)
        data[start : start + len(replacement)] = replacement
    try:
        samples = decode_audio(bytes(data[:end]), RATE, RATE, cut=True).samples
    except Refused:
        return
    assert 0 < len(samples) <= RATE
    assert np.isfinite(samples).all()
