"""Both clients have the same methods; the reference lists them, and the errors; the versions agree."""

import inspect
import re
import tomllib
from typing import Any

import jitney_client
import pytest
from jitney_client import AsyncBatch, AsyncJitney, AsyncJob, Batch, Jitney, Job

from tests.support.service import ROOT

REFERENCE = (ROOT / "docs" / "reference" / "python-client.md").read_text()


def public(of: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(of) if not name.startswith("_")}


@pytest.mark.parametrize(("one", "other"), [(Jitney, AsyncJitney), (Job, AsyncJob), (Batch, AsyncBatch)])
def test_both_clients_have_the_same_methods(one: type, other: type) -> None:
    assert public(one).keys() == public(other).keys()
    for name, member in public(one).items():
        if inspect.isfunction(member):
            parameters = (inspect.signature(each).parameters for each in (member, public(other)[name]))
            first, second = ([(p.name, p.kind, p.default) for p in each.values()] for each in parameters)
            assert first == second, name


def test_the_reference_names_everything_that_is_public() -> None:
    members = {name for of in (Jitney, Job, Batch) for name in public(of) if name != "close"}
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`(.+?)`", REFERENCE))))
    assert members - named == set()
    assert set(jitney_client.__all__) - named == set()


def test_the_client_has_the_version_of_the_service() -> None:
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert jitney_client.__version__ == service
