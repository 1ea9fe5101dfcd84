"""Loads every model of a folder; one that can not be loaded takes nothing else down."""

import logging
import time
from collections.abc import Collection
from pathlib import Path

from worker.models.model import Model, load
from worker.models.repository import BrokenModel, scan
from worker.models.spec import ModelError

log = logging.getLogger("jitney.worker")


def load_all(models_dir: Path, chosen: Collection[str]) -> tuple[list[Model], dict[str, str]]:
    """Load the chosen models (none named: all); gives them, and why the others are not served.

    Raises ModelError where there is nothing to serve at all.
    """
    models: list[Model] = []
    failed: dict[str, str] = {}
    for found in scan(models_dir, chosen):
        started = time.monotonic()
        try:
            if isinstance(found, BrokenModel):
                failed[found.name] = found.reason
            else:
                models.append(load(found))
                log.info("model %s loaded in %.0f ms", found.name, (time.monotonic() - started) * 1000)
        except ModelError as error:
            failed[found.name] = str(error)
    for name, reason in failed.items():
        log.error("model %s is not served: %s", name, reason)
    if not models and not failed:
        raise ModelError(
            models_dir, None, f"no models in {models_dir}: a model is a folder with model.toml and 1/model.onnx"
        )
    return models, failed
