"""Lock and open the cache folder of a TensorRT engine, one per file, GPU and options; drop unfinished builds.

An engine is valid for one file, GPU, TensorRT, ONNX Runtime, precision and batch cap, so a hash of these names its
folder. Builds take minutes, so one process builds while the others wait for its lock.
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

COMPLETE_MARKER: Final = "complete"  # a file that marks a finished build
SPARE_BYTES: Final = 64 << 20  # for TensorRT's timing cache, and a temporary copy


@contextmanager
def open_engine_folder(cache: Path, model: str, facts: Sequence[str], engine_bytes: int) -> Iterator[Path]:
    """Lock the folder of these facts, to build an engine in it or load one from it. Raises ModelError.

    `model`: a readable prefix of its name. `engine_bytes`: the expected size of an engine. Removes an unfinished build
    first. Marks the folder as complete unless the caller raises an exception.
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
        raise _cache_error(cache, error) from error


def _make_room(cache: Path, folder: Path, needed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    free = shutil.disk_usage(cache).free
    if free < needed:
        folder.rmdir()
        raise OSError(errno.ENOSPC, f"{format_bytes(free)} are free, but an engine may need {format_bytes(needed)}")
    probe = folder / ".probe"
    probe.write_bytes(b"x")
    probe.unlink()


def _cache_error(cache: Path, error: OSError) -> ModelError:
    what = error.strerror or os.strerror(error.errno or 0)
    reason = f"cannot store TensorRT engines there: {what}; allowed: a writable folder with enough free space"
    return ModelError(f"JITNEY_TENSORRT_CACHE_DIR={cache}", None, reason)
