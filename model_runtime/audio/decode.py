"""Decode an encoded audio file to one channel at a given rate, in blocks; decoder errors become Refused.

The functions are safe from several threads.
"""

import io
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from jobs.contract.audio_formats import AUDIO_FORMATS, detect_format, tag_size
from jobs.contract.errors import Refused
from model_runtime.spec.audio import RATES
from model_runtime.tensor_spec import Array

MAX_CHANNELS: Final = 8
BLOCK_FRAMES: Final = 16_384  # decoded at a time, one sample of each channel in each: at most 512 KiB
# format → its names in libsndfile, and the encodings that are accepted
_ENCODINGS: Final = {
    "WAV": (("WAV", "WAVEX"), ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")),
    "FLAC": (("FLAC",), ("PCM_S8", "PCM_16", "PCM_24")),
    "OGG": (("OGG",), ("VORBIS", "OPUS")),
    "MP3": (("MP3",), ("MPEG_LAYER_III",)),
}


class DecodedAudio(NamedTuple):
    """Samples of one channel, float32, where full scale is -1 to 1. `is_cut`: the file has more of them."""

    samples: Array
    is_cut: bool


def decode_audio(data: bytes, sample_rate: int, max_samples: int, *, cut: bool = False) -> DecodedAudio:
    """Return the mean of a file's channels, resampled to `sample_rate`; at most `max_samples`.

    The length that a header claims is not trusted: a file is decoded as far as it goes, and no further than the limit.
    With `cut`, what is beyond the limit is left out, else it is refused. Raises Refused: unsupported_media_type,
    audio_too_long, invalid_audio.
    """
    kind = detect_format(data)
    if kind is None:
        message = "the first bytes are not those of a supported audio format"
        allowed = ", ".join(AUDIO_FORMATS)
        raise Refused("unsupported_media_type", f"{message}; allowed: {allowed}", allowed=list(AUDIO_FORMATS))
    start = tag_size(data)
    try:
        with load_libraries()[0](io.BytesIO(data[start:] if start else data)) as file:
            _check_header(kind, file)
            return _read(file, sample_rate, max_samples, cut=cut)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        raise Refused("invalid_audio", f"the {kind} data is damaged or truncated and cannot be decoded") from error


@cache
def load_libraries() -> tuple[Any, Any]:
    """Return the class of an open file, and the module that resamples. Raises ImportError or OSError."""
    import soundfile  # noqa: PLC0415 (only models for audio need it)
    import soxr  # noqa: PLC0415

    class Stream(soundfile.SoundFile):  # type: ignore[misc]  # it has no types
        """A file that is read once from its beginning. A file that can seek trusts the length that its header has."""

        def seekable(self) -> bool:
            return False

    return Stream, soxr


def _check_header(kind: str, file: Any) -> None:
    names, encodings = _ENCODINGS[kind]
    if file.format not in names or file.subtype not in encodings:
        found = f"the {kind} file is {file.format} with the encoding {file.subtype}"
        raise Refused("unsupported_media_type", f"{found}; allowed: {', '.join(encodings)}", allowed=list(encodings))
    if not RATES[0] <= file.samplerate <= RATES[1]:
        message = f"the audio has a sample rate of {file.samplerate} Hz; allowed: {RATES[0]} to {RATES[1]}"
        raise Refused("invalid_audio", message, limit=RATES[0 if file.samplerate < RATES[0] else 1])
    if file.channels > MAX_CHANNELS:
        message = f"the audio has {file.channels} channels; allowed: 1 to {MAX_CHANNELS}"
        raise Refused("invalid_audio", message, limit=MAX_CHANNELS)


def _read(file: Any, sample_rate: int, max_samples: int, *, cut: bool) -> DecodedAudio:
    rate = file.samplerate
    resampler = load_libraries()[1].ResampleStream(rate, sample_rate, 1) if rate != sample_rate else None
    blocks: list[Array] = []
    frames, made, is_cut, is_over = 0, 0, False, False
    while not (is_over or (is_cut and made >= max_samples)):
        # Beyond the frames that its header has, a FLAC file may have other data, at which the decoder would fail.
        block = file.read(min(BLOCK_FRAMES, file.frames - frames), dtype="float32", always_2d=True)
        is_over = not len(block)
        frames += len(block)
        if frames * sample_rate > max_samples * rate:
            if not cut:
                limit = max_samples / sample_rate
                raise Refused("audio_too_long", f"the audio lasts longer than {limit:g} s, the limit", limit=limit)
            is_cut = True
        mono: Array = block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise Refused("invalid_audio", "the audio has a sample that is not a number")
        blocks.append(mono if resampler is None else resampler.resample_chunk(mono, last=is_over))
        made += len(blocks[-1])
    if not made:
        found = f"{frames} samples at {rate} Hz, which is none at {sample_rate} Hz" if frames else "no samples"
        raise Refused("invalid_audio", f"the audio has {found}")
    return DecodedAudio(np.concatenate(blocks)[:max_samples], is_cut)
