"""The embedded queue server for the duration of a with block, without a supervisor."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cli.serve.child_process import last_lines, spawn, stop_process
from cli.serve.embedded_redis import EmbeddedRedis
from cli.serve.start_errors import CannotStart
from tests.support.waiting import wait_until


@contextmanager
def running_server(data_dir: Path) -> Iterator[EmbeddedRedis]:
    """Run a server for the duration of a with block, without a supervisor. Raises CannotStart."""
    with closing(EmbeddedRedis(data_dir)) as server:
        child = server.child
        process = spawn(child)

        def answers() -> bool:
            if process.poll() is not None:
                raise CannotStart(f"{server.engine} ended at once{last_lines(child.log)}")
            return server.is_ready()

        try:
            wait_until(answers, "the server answers", timeout_s=30)
            yield server
        finally:
            stop_process(process, child.stop_s)
