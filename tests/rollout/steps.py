"""One life of a model under load: upgraded by its folder, canaried, promoted, rolled back, loaded anew, unloaded."""

import time
from pathlib import Path
from typing import Any

from tests.rollout.callers import Callers
from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until

NAME = "times"
ENOUGH = 300  # answers, to tell a share by
WITHIN_S = 30.0


class Life:
    """Its steps, each done when callers hear of it. `versions`: those that are used, one after the other."""

    def __init__(self, service: Service, callers: Callers, models_dir: Path) -> None:
        self._service, self._callers, self._models_dir = service, callers, models_dir
        self.took_s: dict[str, list[float]] = {}

    def upgrade(self, version: int) -> None:
        """Lay a version into the folder."""
        began = time.monotonic()
        models.times(self._models_dir, version)
        self._until_all_are(version, began, "upgrade by the folder")

    def canary(self, version: int, percent: int, beside: int) -> float:
        """Give a version a share, once it is there; gives the share that it had."""
        self.ask("promote", version=str(beside))  # from here on the folder brings nothing by itself
        models.times(self._models_dir, version)
        self._until(lambda: self.entry(version) is not None, f"version {version} is seen")
        began = time.monotonic()
        self.ask("share", version=str(version), percent=percent)
        self._until(lambda: self.entry(version)["share"] == percent, f"version {version} has its share")
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
        """Load the version that takes all jobs anew, in every worker."""
        loads = f"model {NAME} version {version} loaded"
        before, workers = self._service.log().count(loads), self.entry(version)["workers"]
        self.ask("load", version=str(version))
        self._until(lambda: self._service.log().count(loads) >= before + workers, "it is loaded anew")

    def unload(self, version: int) -> None:
        began = time.monotonic()
        self.ask("unload", version=str(version))
        self._until(lambda: self.entry(version)["status"] == "available", f"version {version} is unloaded")
        self._note("unload", began)

    def entry(self, version: int) -> Any:
        """How a version stands; None where nobody knows it."""
        shown = self._service.http.get(f"/v1/models/{NAME}").json()["versions"]
        return next((one for one in shown if one["version"] == str(version)), None)

    def ask(self, verb: str, **fields: object) -> dict[str, Any]:
        answer = self._service.http.post(f"/v1/models/{NAME}/{verb}", json=fields)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def _until_all_are(self, version: int, began: float, what: str) -> None:
        """Wait until everybody who asks hears this version."""

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
