"""Retired words and identifiers stay retired: docs/glossary.md has the terms that took their place."""

import io
import re
import subprocess
import tokenize
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CODE: Final = (
    "api",
    "background",
    "batching",
    "cli",
    "examples",
    "jitney",
    "jobs",
    "model_runtime",
    "scripts",
    "worker",
)
WORDS: Final = re.compile(
    r"doorman|depot|shelf|keeper|burial|bur(?:y|ied|ies)|aboard|airborne|riders?|seats?|black.?box|lookout|whoever"
    r"|anew|can not",
    re.IGNORECASE,
)
IDENTIFIERS: Final = """
    Doorman Rates Cycle Bodies Submits Pace Patience Rollouts Draft Flight Wire Pipe Lookout Swept Buried
    Letter Deviation Announced Tally Overtaken Stand Asks Bits Word Handed Claimed Runtime Loops Station Intake Board
    Rider Finisher ShortRuns BulkSeats Ceilings Keeper Wish Shelf Shelved Depot LoadNotes Announcer BlackBox Ride Guest
    Carrier Errand Stepper Course Findings TryAgain OwnEngine
"""
MODULES: Final = re.compile(
    r"\b(?:worker\.(?:models|delivery|bulk|burial|blackbox|board|depot|keeper|shelf|station)|scripts\.(?:cli|bench|up)"
    r"|jobs\.(?:connection|store\.JobStore|pipe|lookout|notices|outage|waits|guard|drafts|views|upkeep)"
    r"|api\.(?:doorman|callers|drafts|taking|hot|many|pace|patience))\b"
)
SETTINGS: Final = """
    OPEN OWN_CAP MAX_LOSSES TRIAL_REST_S MAX_BODIES_BYTES MAX_REQUEST_JOBS MAX_HEAD_BYTES HEAD_S RECEIVE_S SEND_S
    STUCK_S SWEEP_S EVENTS_BEAT_S RECHECK_S MODELS_S KEYS_S STATS_S BEAT_S MODELS_WATCH_S DELIVERIES SLOW_DELIVERIES
    WEBHOOK_FLIGHT_S WEBHOOK_ROTATE_S BULK_FLIGHT_S BULK_STEPS BULK_FETCHES BULK_IMAGES BULK_URLS ENGINE_CACHE
    LEASE_S DATA_DIR MODELS_DIR RESULT_TTL_S
"""
KEYS: Final = re.compile(r"[\"'}]:(?:line|ring|turns|seats|trial|later|own|airborne|flights|marks|stepping)[:\"']")


def files(*suffixes: str, folders: tuple[str, ...] = (*CODE, "tests")) -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [
        name
        for name in listed.split()
        if name.endswith(suffixes) and Path(name).name not in {Path(__file__).name, "test_environment.py"}
    ]
    return {name: (ROOT / name).read_text() for name in names if (ROOT / name).is_file()}


def test_no_retired_word() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in files(".py", ".lua", ".html").items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(rf"\b(?:{WORDS.pattern})\b", line, re.IGNORECASE)
    ]
    assert found == []


def test_no_retired_identifier_module_or_setting() -> None:
    found = []
    identifiers, settings = (frozenset(re.findall(r"\w+", listed)) for listed in (IDENTIFIERS, SETTINGS))
    for name, text in files(".py").items():
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string in identifiers:
                found.append(f"{name}:{token.start[0]}: {token.string}")
            if token.type == tokenize.STRING and token.string.strip("\"'") in settings:
                found.append(f"{name}:{token.start[0]}: {token.string} lacks the prefix JITNEY_")
            if token.type == tokenize.STRING and (module := MODULES.search(token.string)):
                found.append(f"{name}:{token.start[0]}: {module[0]}")
    assert found == []


def test_no_retired_redis_key() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in files(".py", ".lua").items()
        for number, line in enumerate(text.splitlines(), 1)
        if KEYS.search(line)
    ]
    assert found == []


def test_the_glossary_defines_each_term_once() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 50
    assert sorted(terms, key=str.lower) == terms
    assert len({term.lower() for term in terms}) == len(terms)
