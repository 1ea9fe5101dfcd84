"""The store under random interleavings of all its scripts, compared with a model (tests/long/store_stress).

2,000 steps here; `make long NAME=store-stress ARGS="--steps 100000"` makes as many as wanted, with other seeds, and
makes an episode that broke a promise once more with a comparison after every step.
"""

import pytest

from tests.long.store_stress import episode
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


@pytest.mark.timeout(180)
async def test_no_promise_is_broken_in_two_thousand_random_steps() -> None:
    """Four episodes with other settings each; the server is killed in each. A violation names its seed and step."""
    server = Server(appendfsync="always")
    try:
        for nth in range(4):
            await episode.run(server, f"ci:{nth}", 500, kill_every=300)
    finally:
        server.close()
