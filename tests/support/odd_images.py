"""The answers that are expected for the odd images of the shared data."""

import json
from pathlib import Path
from typing import Any

READ_SINCE: dict[str, dict[str, Any]] = {"pillow/avif_hopper.heif": {"expect": 200}}  # AVIF was not accepted


def expected_answers(shared_data: Path) -> dict[str, dict[str, Any]]:
    """Return `expect`, the status at /predict, and `code` of an error, by the name of the file."""
    files: dict[str, dict[str, Any]] = json.loads((shared_data / "odd_expected.json").read_text())["files"]
    return files | READ_SINCE
