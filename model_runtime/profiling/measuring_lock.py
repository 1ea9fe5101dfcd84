"""Lets one process of a machine measure run times at a time: several that start together disturb each other."""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

log = logging.getLogger("jitney.worker")

PATIENCE_S: Final = 30.0  # then measure all the same: a model may be too slow to wait for
RETRY_S: Final = 0.01


@contextmanager
def measuring_alone(patience_s: float = PATIENCE_S) -> Iterator[bool]:
    """Hold the lock of this machine and user; yield whether it is held.

    It is not if another process held it for all of `patience_s` seconds, or if no temporary folder can be written to:
    then run times are measured beside other load. The lock ends with its process. Blocks the thread that waits for it.
    """
    with ExitStack() as stack:
        try:
            path = Path(tempfile.gettempdir()) / f"jitney-measuring-{os.getuid()}.lock"
            file = stack.enter_context(path.open("ab"))
        except OSError as error:
            log.info("run times are measured without a lock, beside other workers: %s", error)
            yield False
            return
        give_up_at = time.monotonic() + patience_s
        while not (has_lock := _try_lock(file.fileno())) and time.monotonic() < give_up_at:
            time.sleep(RETRY_S)
        yield has_lock  # closing the file unlocks it


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
