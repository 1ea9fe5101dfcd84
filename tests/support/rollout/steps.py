"""The steps of a rollout under load: upgrade by folder, canary, promote, roll back, reload, unload."""

import time
from pathlib import Path
from typing import Any

from tests.support import models
from tests.support.rollout.callers import Callers
from tests.support.service import Service
from tests.support.waiting import wait_until

# The folder is polled often, and an unwanted version or a dead worker is soon replaced.
QUICK = {"JITNEY_MODELS_POLL_S": "0.2", "JITNEY_UNLOAD_AFTER_S": "0.5", "JITNEY_RESTART_LIMIT_S": "0.3"}
NAME = "times"
ENOUGH = 300  # answers, to tell a share by
WITHIN_S = 30.0


class Models:
    """An admin's view of the model `times`, and the admin's actions."""

    def __init__(self, service: Service, name: str = NAME) -> None:
        self.service, self.name = service, name

    def entry(self, version: int) -> Any:
        """The state of a version; None where it is unknown."""
        answer = self.service.http.get(f"/v1/models/{self.name}").json()
        return next((one for one in answer.get("versions", []) if one["version"] == str(version)), None)

    def status(self, version: int) -> str:
        entry = self.entry(version)
        return str(entry["status"]) if entry else "unknown"

    def ask(self, verb: str, **fields: object) -> dict[str, Any]:
        answer = self.service.http.post(f"/v1/models/{self.name}/{verb}", json=fields)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def until(self, version: int, status: str, share: float | None = None) -> Any:
        """Wait until a version has this state and share; return its state."""

        def stands() -> Any:
            entry = self.entry(version) or {"status": "unknown", "share": 0}
            return entry if entry["status"] == status and share in (None, entry["share"]) else None

        return wait_until(stands, f"version {version} is {status}, with a share of {share}", WITHIN_S)

    def run(self, number: float = 5) -> tuple[str, float]:
        """Run a job; gives the version that answered, and the factor by which it did."""
        tensor = {"datatype": "FP32", "shape": [4], "data": [number] * 4}
        body = {"model": self.name, "input": {"tensors": {"x": tensor}}}
        answer = self.service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=20"})
        assert answer.status_code == 200, answer.text
        job = answer.json()
        assert job["status"] == "succeeded", job
        return job["version"], job["output"]["tensors"]["y"]["data"][0] / number


class Life(Models):
    """The steps of a rollout; each is done when callers see its effect."""

    def __init__(self, service: Service, callers: Callers, models_dir: Path) -> None:
        super().__init__(service)
        self._callers, self._models_dir = callers, models_dir
        self.took_s: dict[str, list[float]] = {}

    def upgrade(self, version: int) -> None:
        """Add a version to the folder."""
        began = time.monotonic()
        models.times(self._models_dir, version)
        self._until_all_are(version, began, "upgrade by the folder")

    def canary(self, version: int, percent: int, beside: int) -> float:
        """Give a version a share once it is loaded; return the share that it got."""
        self.ask("promote", version=str(beside))  # from here on the folder brings nothing by itself
        models.times(self._models_dir, version)
        self.until(version, "available")
        began = time.monotonic()
        self.ask("share", version=str(version), percent=percent)
        self.until(version, "ready", share=percent)
        self._note("canary has its share", began)
        began = time.monotonic()
        self._until(lambda: len(self._callers.since(began)) >= ENOUGH, "enough answers")
        heard = self._callers.versions_since(began)
        return 100 * heard[str(version)] / heard.total()

    def promote(self, version: int) -> None:
        began = time.monotonic()
        self.ask("promote", version=str(version))
        self._until_all_are(version, began, "promote")

    def roll_back(self, to: int) -> None:
        began = time.monotonic()
        self.ask("rollback")
        self._until_all_are(to, began, "roll back")

    def reload(self, version: int) -> None:
        """Reload the version that takes all jobs, in every worker."""
        loads = f"{NAME} {version}: "
        before, workers = self.service.log().count(loads), self.entry(version)["workers"]
        self.ask("load", version=str(version))
        self._until(lambda: self.service.log().count(loads) >= before + workers, "it is loaded again")

    def unload(self, version: int) -> None:
        began = time.monotonic()
        self.ask("unload", version=str(version))
        self.until(version, "available")
        self._note("unload", began)

    def _until_all_are(self, version: int, began: float, what: str) -> None:
        """Wait until every caller is answered by this version."""

        def heard() -> bool:
            newest = [answer.version for answer in [*self._callers.answers][-200:] if answer.asked_at >= began]
            return len(newest) == 200 and set(newest) == {str(version)}

        self._until(heard, f"{what}: all jobs are version {version}'s")
        others = [one.asked_at - began for one in self._callers.since(began) if one.version != str(version)]
        self.took_s.setdefault(what, []).append(max(others, default=0.0))

    def _note(self, what: str, began: float) -> None:
        self.took_s.setdefault(what, []).append(time.monotonic() - began)

    def _until(self, is_so: Any, what: str) -> None:
        wait_until(lambda: is_so() or None, what, WITHIN_S)
