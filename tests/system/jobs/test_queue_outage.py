"""During an outage of the queue server each process logs one line with its address, and one when it is back."""

import re
from collections import Counter
from pathlib import Path

from tests.support import models
from tests.support.servers import Server, free_port
from tests.support.service import Service
from tests.support.waiting import check_during, wait_until

BODY = b"\0\0\x80?" * 4
AWAY = r" (\w+) WARNING cannot reach Redis, trying again: (redis:\S+): "


def test_an_outage_gives_two_log_lines_of_each_process(tmp_path: Path) -> None:
    """Each loop used to log the outage itself, without the address: a dozen lines of each process."""
    models.doubling(tmp_path / "models")
    server = Server(port=free_port())
    env = {"JITNEY_REDIS_URL": f"redis://:s3cret@127.0.0.1:{server.port}/0"}
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", ">s3cret")
    try:
        with Service(tmp_path / "models", env) as service:
            assert service.submit(BODY, "application/octet-stream", wait=10, model="double").json()["output"]
            wait_until(lambda: "delivering webhooks" in service.log(), "the background process has started")
            check_during(service.serves, 0.3)  # the worker has read the answer to its result: it has none to repeat
            before = len(service.log())
            server.kill()
            wait_until(
                lambda: len(re.findall(AWAY, service.log()[before:])) == 3, f"each process has said it: {service.log()}"
            )

            def refuses() -> None:
                answer = service.submit(BODY, "application/octet-stream", wait=10, model="double")
                assert answer.status_code == 503
                assert service.http.get("/readyz").status_code == 503

            check_during(refuses, 2)
            away = service.log()[before:]
            server.start()  # without the ACL: any password is taken
            wait_until(lambda: service.log()[before:].count("can reach Redis again") == 3, "all are back")
            wait_until(service.serves, "ready again")
            said = service.log()[before:]
            assert service.submit(BODY, "application/octet-stream", wait=10, model="double").json()["output"]
            service.stop()
            everything = service.log()
        assert Counter(re.findall(AWAY, away)) == {
            (part, f"redis://:***@127.0.0.1:{server.port}/0"): 1 for part in ("gateway", "worker", "background")
        }, everything
        assert len(away.splitlines()) == 3, everything
    finally:
        server.close()
    for word in ("s3cret", "never retrieved", "Traceback"):
        assert word not in everything
    assert [line for line in said.splitlines() if "WARNING" in line and "cannot reach Redis" not in line] == []
