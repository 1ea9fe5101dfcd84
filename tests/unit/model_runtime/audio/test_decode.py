"""Audio files become samples of one channel at the model's rate: formats, resampling, mixing, and the limits."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from model_runtime.audio.decode import BLOCK_FRAMES, decode_audio
from tests.support.model_files.audio import RATE, encode, sine

LOSSLESS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE")]
LOSSLESS += [("WAVEX", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]
LOSSY = [("WAV", "ULAW"), ("WAV", "ALAW"), ("WAV", "PCM_U8"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]


def decode(data: bytes, seconds: float = 60, rate: int = RATE) -> NDArray[np.float32]:
    decoded = decode_audio(data, rate, round(seconds * rate))
    assert decoded.samples.dtype == np.float32
    assert not decoded.is_cut
    return decoded.samples


def measure(samples: NDArray[np.float32], rate: int) -> tuple[float, float]:
    """The frequency of a tone in Hz, and its amplitude, of the middle half, where a filter has settled."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4].astype(np.float64)
    window = np.hanning(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window, 16 * len(middle)))
    return spectrum.argmax() * rate / (16 * len(middle)), 2 * spectrum.max() / window.sum()


@pytest.mark.parametrize(("file_format", "encoding"), LOSSLESS)
def test_samples_of_the_same_rate_are_exact(file_format: str, encoding: str) -> None:
    levels = np.random.default_rng(1).integers(-32768, 32768, 40_000) / 32768
    assert np.array_equal(decode(encode(levels, RATE, file_format, encoding)), levels.astype(np.float32))


@pytest.mark.parametrize(("file_format", "encoding"), LOSSY)
def test_other_encodings_keep_the_tone_and_the_length(file_format: str, encoding: str | None) -> None:
    samples = decode(encode(sine(440, 2), RATE, file_format, encoding))
    assert len(samples) == 2 * RATE
    frequency, amplitude = measure(samples, RATE)
    assert frequency == pytest.approx(440, abs=0.5)
    assert amplitude == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("file_rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_resampling_keeps_frequency_and_amplitude(file_rate: int, rate: int) -> None:
    samples = decode(encode(sine(1000, 2, file_rate), file_rate, "WAV", "FLOAT"), rate=rate)
    assert len(samples) == 2 * rate
    middle = slice(rate // 2, 3 * rate // 2)
    assert np.abs(samples - sine(1000, 2, rate))[middle].max() < 1e-4
    frequency, amplitude = measure(samples, rate)
    assert frequency == pytest.approx(1000, abs=0.5)
    assert amplitude == pytest.approx(0.5, rel=1e-3)


def test_what_the_rate_cannot_have_is_removed() -> None:
    """A tone of 10 kHz would be one of 6 kHz at 16 kHz, if samples were only left out."""
    samples = decode(encode(sine(10_000, 1, 48_000), 48_000, "WAV", "FLOAT"))
    assert np.abs(samples[RATE // 4 : -RATE // 4]).max() < 1e-3


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_channels_are_averaged(channels: int) -> None:
    levels = np.random.default_rng(2).integers(-32768, 32768, (3 * BLOCK_FRAMES + 5, channels)) / 32768
    mixed = decode(encode(levels, RATE, "FLAC"))
    assert np.allclose(mixed, levels.mean(axis=1), atol=1e-7)
    opposite = np.stack([sine(440), -sine(440)], axis=1)
    assert np.abs(decode(encode(opposite, RATE, "WAV", "FLOAT"))).max() == 0


def test_a_tag_before_the_audio_is_skipped() -> None:
    mp3 = encode(sine(440), RATE, "MP3")
    assert np.array_equal(decode(b"ID3\x04\0\0\0\0\x01\x00" + b"\xff" * 128 + mp3), decode(mp3))


@pytest.mark.parametrize("file_rate", [8_000, RATE, 44_100, 48_000])
def test_the_beginning_of_longer_audio_is_that_of_the_whole(file_rate: int) -> None:
    data = encode(sine(440, 5, file_rate), file_rate)
    whole = decode(data)
    for size in (1, 999, RATE, 5 * RATE - 1):
        cut = decode_audio(data, RATE, size, cut=True)
        assert cut.is_cut
        assert np.array_equal(cut.samples, whole[:size])
    assert decode_audio(data, RATE, 5 * RATE, cut=True).is_cut is False


def test_the_limit_is_exact() -> None:
    data = encode(sine(440, 1, 44_100), 44_100)
    assert len(decode(data, 1)) == RATE
    assert len(decode(encode(np.zeros(44_099), 44_100), 1)) == RATE
    assert len(decode(encode(np.zeros(1)), 1 / RATE)) == 1


def test_no_more_than_the_limit_is_decoded() -> None:
    """Ten minutes of silence in 40 kB of FLAC would be 230 MB of samples of two channels at 48 kHz."""
    data = encode(np.zeros((48_000 * 600, 2), np.int16), 48_000, "FLAC")
    assert len(data) < 1 << 20
    tracemalloc.start()
    samples = decode_audio(data, RATE, RATE, cut=True).samples
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
    assert len(samples) == RATE
