"""F25: a bulk job continues by itself, and P9 holds, while every part is killed."""

import random
from pathlib import Path

from openai.types import Batch

from tests.support import bulks
from tests.support.bulks import line
from tests.support.service import DIGITS, Service

COUNT, ENOUGH_KILLS = 5000, 4
# Small steps, so that a kill meets each of them; a step that died is made again soon.
ENV = {
    "JITNEY_BULK_CHUNK": "100",
    "JITNEY_BULK_IN_FLIGHT": "500",
    "JITNEY_BULK_STEP_LEASE_S": "1.5",
    "JITNEY_BULK_COLLECT_S": "0.2",
}


def test_f25_a_batch_continues_whatever_part_is_killed(shared_data: Path) -> None:
    odd = [path for path in sorted((shared_data / "odd").rglob("*")) if path.is_file()]
    chance = random.Random(25)
    images = [path.read_bytes() for path in DIGITS]
    lines, ids, good_ids = [], [], set()
    for nth in range(COUNT):
        is_odd = chance.random() < 0.03
        ids.append(f"{'odd' if is_odd else 'digit'}-{nth}")
        image = chance.choice(odd).read_bytes() if is_odd else chance.choice(images)
        lines.append(line(ids[-1], image, "digits"))
        good_ids |= set() if is_odd else {ids[-1]}
    with Service(env=ENV) as service, bulks.client(service.url, max_retries=5) as ai:
        batch = bulks.start_batch(ai, lines)
        for nth, part in enumerate(("background", "worker", "api", "server", "background", "server", "worker"), 1):
            goal = nth * COUNT // 20

            def has_come_so_far(seen: Batch, goal: int = goal) -> bool:
                counts = seen.request_counts
                return counts is not None and counts.completed + counts.failed >= goal

            seen = bulks.wait_for_batch(ai, batch, has_come_so_far, f"{goal} lines are done", 60)
            if seen.status != "in_progress":  # it was quicker than we are
                break
            service.kill(part)
        assert nth > ENOUGH_KILLS
        done = bulks.wait_for_end(ai, batch, 60)
        assert done.status == "completed"
        good, _ = bulks.check_batch(ai, done, ids)
        assert {one["custom_id"] for one in good} >= good_ids
        assert "Traceback" not in service.log()
