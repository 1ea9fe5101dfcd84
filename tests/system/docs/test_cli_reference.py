"""docs/reference/cli.md describes every command and option as the commands themselves do."""

import re

import pytest

from tests.support.cli_parsers import commands, section
from tests.support.service import ROOT

PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()


def test_every_command_and_option_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JITNEY_MODELS_DIR", "JITNEY_URL", "JITNEY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    sections = [section(words, parser) for words, parser in commands(monkeypatch).items()]
    documented = [f"## {text.strip()}" for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]]
    assert documented == sections
