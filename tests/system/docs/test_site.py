"""The site of the documentation builds strictly, has every page, and loads nothing from another host."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

pytest.importorskip("mkdocs", reason="make docs installs it")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    assert len(pages) > 20
    loaded = r'<(?:script|img|iframe|source|link rel="(?:stylesheet|icon|preload)")[^>]+(?:src|href)="(?:https?:)?//'
    assert [path.name for path, text in pages.items() if re.search(loaded, text)] == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert [text[:80] for text in styles if re.search(r"url\([\"']?(?:https?:)?//", text)] == []


def test_every_page_is_in_the_navigation_and_in_the_search(site: Path) -> None:
    home, found = (site / "index.html").read_text(), (site / "search" / "search_index.json").read_text()
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f'href="{page}"' not in home and page != "index.html"] == []
    assert [page for page in pages if f'"location":"{page}' not in found] == []


def test_lists_begin_after_a_blank_line() -> None:
    """Otherwise GitHub shows a list and the site a paragraph."""
    wrong = []
    for path in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
            if re.match(r"([-*]|\d\.) ", line) and before.strip() and not re.match(r"\s|[-*] |\d\. ", before):
                wrong.append(f"{path.name}: {line[:40]}")
    assert wrong == []
