"""The memory of an unloaded version is freed, however often versions change."""

from pathlib import Path

import pytest

from tests.support import models
from tests.support.rollout.steps import QUICK, Models
from tests.support.service import Service
from tests.support.waiting import wait_until

MIB = 1 << 20
WEIGHTS_MIB = 64


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / MIB


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what a process holds")
@pytest.mark.timeout(120)
def test_loading_and_unloading_versions_leaks_no_memory(tmp_path: Path) -> None:
    """This includes the first version, which was there when the worker started."""
    for version in (1, 2):
        models.heavy(tmp_path, version, WEIGHTS_MIB)
    (tmp_path / "heavy" / "model.toml").write_text('task = "tensor"\nversion = "1"\nmax_batch = 4')
    with Service(tmp_path, QUICK) as service:
        heavy, worker = Models(service, "heavy"), service.pid("worker")
        one = resident_mib(worker)
        heavy.ask("load", version="2")
        heavy.until(2, "ready")
        both = resident_mib(worker)
        assert both > one + WEIGHTS_MIB / 2
        heavy.ask("promote", version="2")
        heavy.ask("unload", version="1")
        heavy.until(1, "available")
        wait_until(lambda: resident_mib(worker) < both - WEIGHTS_MIB / 2, "what the first took is given back")
        for gone, come in ((2, 1), (1, 2)) * 3:
            heavy.ask("load", version=str(come))
            heavy.until(come, "ready")
            heavy.ask("promote", version=str(come))
            heavy.ask("unload", version=str(gone))
            heavy.until(gone, "available")
        # Seven came: one that stayed behind each time would be 448 MiB.
        wait_until(lambda: resident_mib(worker) < one + WEIGHTS_MIB, "what the others took is given back")
