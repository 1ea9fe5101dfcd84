"""Where TensorRT keeps what it has built: a folder for each model on each kind of GPU, whole or not there.

An engine is good for one file, GPU, TensorRT, ONNX Runtime, precision and batch cap: all of these name its folder.
Building takes minutes, so that one process builds and the others wait for it.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from model_runtime.repository.host_memory import format_bytes
from model_runtime.spec.model_toml import ModelError

COMPLETE_MARKER: Final = "complete"  # a file in the folder: what was built lies there whole
SPARE_BYTES: Final = 64 << 20  # beside the engine: TensorRT's timings, a second copy while it is written


@contextmanager
def open_engine_folder(cache: Path, model: str, facts: Sequence[str], engine_bytes: int) -> Iterator[Path]:
    """The folder for these facts, while an engine is built in it or read from it; raises ModelError.

    `model`: the first part of its name, for people; `engine_bytes`: what an engine may take. Sealed where the caller
    raises nothing; what a build left behind that was broken off is removed first.
    """
    folder = cache / f"{model}-{sha256(repr(facts).encode()).hexdigest()[:16]}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / COMPLETE_MARKER).exists():
                _make_room(cache, folder, engine_bytes + SPARE_BYTES)
            yield folder
            (folder / COMPLETE_MARKER).write_text("\n".join([*facts, ""]))
    except OSError as error:
        raise _refusal(cache, error) from error


def _make_room(cache: Path, folder: Path, needed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    free = shutil.disk_usage(cache).free
    if free < needed:
        folder.rmdir()
        raise OSError(errno.ENOSPC, f"{format_bytes(free)} are free, an engine may need {format_bytes(needed)}")
    probe = folder / ".probe"
    probe.write_bytes(b"x")
    probe.unlink()


def _refusal(cache: Path, error: OSError) -> ModelError:
    what = error.strerror or os.strerror(error.errno or 0)
    reason = f"what TensorRT builds can not be kept there: {what}; allowed: a folder that can be written to, with room"
    return ModelError(f"JITNEY_TENSORRT_CACHE_DIR={cache}", None, reason)
