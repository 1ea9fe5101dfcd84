"""The command `jitney`: each verb calls its own code with the rest of the arguments."""

import sys
from types import SimpleNamespace

import pytest

from cli import main as cli


def test_a_verb_gets_all_remaining_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def main(argv: list[str]) -> int:
        given.append(argv)
        return 5

    monkeypatch.setitem(sys.modules, "api.__main__", SimpleNamespace(main=main))
    assert cli.main(["api", "--fd", "3", "--help"]) == 5
    assert given == [["--fd", "3", "--help"]]


def test_an_unknown_verb_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["down"])
    assert "choose from" in capsys.readouterr().err


def test_the_help_names_every_verb_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert [
        word
        for word in (
            *cli.VERBS,
            "JITNEY_REDIS_URL",
            "JITNEY_PORT",
            "JITNEY_HOST",
            "JITNEY_MODELS_DIR",
            "JITNEY_DATA_DIR",
            "JITNEY_WORKERS",
        )
        if word not in said
    ] == []


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("jitney 0.")


def test_a_worker_without_onnx_runtime_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["worker"])
    assert 'pip install -e ".[cpu]"' in capsys.readouterr().err
