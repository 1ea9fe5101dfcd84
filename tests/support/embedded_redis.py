"""The embedded queue server for the duration of a with block, without a supervisor."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cli.serve.child_process import CannotStart, last_lines, spawn, stop_process
from cli.serve.embedded_redis import EmbeddedRedis


@contextmanager
def running_server(data_dir: Path) -> Iterator[EmbeddedRedis]:
    """Run a server for the duration of a with block, without a supervisor. Raises CannotStart."""
    with closing(EmbeddedRedis(data_dir)) as server:
        child = server.child
        process = spawn(child)
        try:
            while not server.is_ready():
                if process.poll() is not None:
                    raise CannotStart(f"{server.engine} ended at once{last_lines(child.log)}")
                time.sleep(0.005)
            yield server
        finally:
            stop_process(process, child.stop_s)
