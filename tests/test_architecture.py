"""Rules about the code: file sizes, sleeps, names, and documents that must agree with the code."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from api.settings import GatewaySettings
from background.settings import BackgroundSettings
from jobs.bulk.settings import BulkSettings
from jobs.config.compared_settings import COMPARED
from jobs.contract.errors import CODES
from jobs.contract.lifecycle import FINAL, TRANSITIONS, State, markdown_table
from jobs.redis_client import keys
from jobs.redis_client.script import Script
from jobs.store.settings import StoreSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
FOLDERS = ("api", "background", "batching", "cli", "client", "jitney", "jobs", "model_runtime", "scripts", "worker")
MAX_LINES = 400
LONG_FILES: dict[str, int] = {  # file → its frozen size, with the reason beside it
    "api/grpc_server/generated/open_inference_pb2_grpc.py": 600,  # made by scripts/generate_grpc.py
}
BAGS = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "handler", "misc"}


def sources(*folders: str) -> list[Path]:
    """Every Python file of the project in these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_files_stay_small() -> None:
    long = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources(*FOLDERS)}
    assert {path: lines for path, lines in long.items() if lines > LONG_FILES.get(path, MAX_LINES)} == {}


def test_every_package_of_the_service_is_in_the_wheel() -> None:
    folders = [folder for folder in FOLDERS if folder not in ("client", "scripts")]
    packages = [path.parent.relative_to(ROOT) for path in sources(*folders) if path.name == "__init__.py"]
    found = {str(package).replace("/", ".") for package in packages}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert listed == sorted(found | {"jitney.bundled_models"})


def test_no_module_is_a_grab_bag() -> None:
    assert [path for path in sources(*FOLDERS) if path.stem in BAGS or path.parent.name in BAGS] == []


def test_the_client_and_the_service_import_nothing_of_each_other() -> None:
    def imported(path: Path) -> set[str]:
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [
            node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
            for node in nodes
            for alias in node.names
        ]
        return {name.partition(".")[0] for name in names}

    assert {path: found for path in sources("client") if (found := imported(path) & {*FOLDERS, "tests"})} == {}
    service = sources(*(folder for folder in FOLDERS if folder != "client"))
    assert [path for path in service if "jitney_client" in imported(path)] == []


def test_no_test_sleeps() -> None:
    """Waiting is for a state, with a description (tests/support/waiting.py), never for a time."""
    calls = {
        path: [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if _is_sleep(node)]
        for path in sources("tests")
        if path.name != "waiting.py"
    }
    assert {path: found for path, found in calls.items() if found} == {}


def _is_sleep(node: ast.AST) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    return (
        isinstance(called, ast.Attribute | ast.Name)
        and (getattr(called, "attr", "") or getattr(called, "id", "")) == "sleep"
    )


def test_every_lua_script_documents_its_arguments_and_result() -> None:
    scripts = [path for path in (ROOT / "jobs" / "lua").rglob("*.lua") if path.parent.name != "shared"]
    assert {path.stem for path in scripts} >= {
        "submit",
        "claim",
        "extend_leases",
        "finish",
        "expire_and_reclaim",
        "cancel",
        "read_and_wait",
    }
    assert [
        path.name for path in scripts if not {"-- ARGV", "-- returns"} <= set(re.findall(r"-- \w+", path.read_text()))
    ] == []


def test_every_lua_script_is_called_from_one_function() -> None:
    """Arguments and reply of a script are written in one place, with types."""
    folder = ROOT / "jobs" / "lua"
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*/*.lua")]
    source = "\n".join(path.read_text() for path in sources(*FOLDERS))
    calls = {name: len(re.findall(rf'\.(?:run|script)\(\s*"{name}"', source)) for name in names}
    assert {name: count for name, count in calls.items() if count != 1 and not name.startswith("shared/")} == {}


def test_a_script_is_preceded_by_the_shared_code_it_needs() -> None:
    """Otherwise a missing name would fail only when the script reaches it."""
    folder = ROOT / "jobs" / "lua"
    defined = {
        path.stem: set(re.findall(r"^local (?:function )?([\w]+)", path.read_text(), re.MULTILINE))
        for path in (folder / "shared").glob("*.lua")
    }
    for path in (path for path in folder.rglob("*.lua") if path.parent.name != "shared"):
        source = Script(path.relative_to(folder).with_suffix("").as_posix()).source
        code = re.sub(r"--.*", "", source)
        for part, names in defined.items():
            used = {name for name in names if re.search(rf"(?<![\w.:'])({name})\(", code)}
            has = set(re.findall(r"^local (?:function )?([\w]+)", source, re.MULTILINE))
            assert used <= has, f"{path.name} uses {used - has} of {part}.lua"


def test_only_commands_of_redis_7_0() -> None:
    newer = "HEXPIRE|HPEXPIRE|HSETEX|HGETEX|HGETDEL|MSETEX|XACKDEL|XDELEX|DELIFEQ|DELEX|INCREX|XNACK"
    found = [path for path in (ROOT / "jobs").rglob("*.*") if path.suffix in {".lua", ".py"}]
    assert [path.name for path in found if re.search(rf"['\"]({newer})['\"]", path.read_text())] == []


def test_every_key_in_lua_is_in_the_table() -> None:
    named = set(re.findall(r"`:(\w+)", keys.__doc__ or ""))
    used = {
        kind
        for path in (ROOT / "jobs" / "lua").rglob("*.lua")
        for kind in re.findall(r"root \.\. ':(\w+)", path.read_text())
    }
    assert used == named


def test_a_final_state_has_no_transitions() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELED, State.EXPIRED} == FINAL
    assert {target for _, target in TRANSITIONS} | {State.QUEUED} == set(State)


def test_the_documented_job_states_match_the_code() -> None:
    folder = ROOT / "docs" / "explanation"
    assert markdown_table() in (folder / "lifecycle.md").read_text()
    assert set(State) <= set(re.findall(r">(\w+)</text>", (folder / "lifecycle.svg").read_text()))


def test_every_file_named_by_the_page_on_architecture_exists() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./]+)`", text)
    assert len(named) > 100
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_message_in_troubleshooting_is_one_of_the_code() -> None:
    """The part between two `…` of a message in a heading stands in the code, perhaps over several lines."""
    texts = [path.read_text() for path in sources(*FOLDERS)]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts)) + (ROOT / "Makefile").read_text()
    headings = re.findall(r"^### (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = [part for line in headings for text in re.findall(r"`(.+?)`", line) for part in text.split("…")]
    assert len(messages) > 50
    assert [part for part in messages if len(part) > 8 and part.strip(" ():;,") not in code] == []


def test_the_documented_error_codes_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+) \| (?:.+) \|$", page, re.MULTILINE)
    assert documented == [(code, str(status), meaning) for code, (status, meaning) in CODES.items()]


@pytest.mark.parametrize("settings", [StoreSettings, GatewaySettings, WorkerSettings, BackgroundSettings, BulkSettings])
def test_every_setting_is_documented_with_its_default_and_meaning(settings: type[BaseSettings]) -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    missing = [
        name
        for name, field in settings.model_fields.items()
        if not re.search(
            rf"^\| `JITNEY_{name.upper()}` \| {_default(field)} \| {re.escape(field.description or '?')} \|$",
            text,
            re.MULTILINE,
        )
    ]
    assert missing == []


def _default(field: FieldInfo) -> str:
    """Return a pattern for the default of a setting on its page."""
    if field.default_factory is not None:  # described in words
        return ".+"
    shown = {None: "unset", "": "empty"}.get(field.default) if field.default in (None, "") else None
    return f"`?{re.escape(shown or str(field.default).lower().removesuffix('.0'))}`?"


def test_the_compared_settings_are_documented() -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    parts = {
        "all processes": ("gateway", "worker", "background"),
        "gateways and background processes": ("gateway", "background"),
        "gateways": ("gateway",),
        "workers": ("worker",),
        "background processes": ("background",),
    }
    lists = re.findall(r"^Compared between (.+):\n\n((?:`.+\n)+)", text, re.MULTILINE)
    documented = {name: parts[who] for who, names in lists for name in re.findall(r"`(\w+)`", names)}
    assert documented == COMPARED


def test_every_cited_decision_exists() -> None:
    texts = [path.read_text() for path in [*sources(*FOLDERS), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]]
    cited = {name for text in texts for name in re.findall(r"docs/explanation/decisions/([\w-]+)", text)}
    assert cited <= {path.stem for path in (ROOT / "docs" / "explanation" / "decisions").glob("*.md")}


def test_the_project_mentions_only_itself() -> None:
    """No path of one machine in anything that is committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {
        name: (ROOT / name).read_bytes()
        for name in listed
        if (ROOT / name).is_file() and name != "tests/test_architecture.py"
    }
    assert [name for name, text in texts.items() if re.search(rb"(?<![.\w])/(work|root)/", text)] == []
