"""Workers on a machine without a GPU: a GPU provider fails in one line, `auto` serves and says so."""

import re
from collections.abc import Iterator

import pytest

from model_runtime.engine.device_info import query_driver
from tests.support import models
from tests.support.service import Service

pytestmark = pytest.mark.skipif(not query_driver().problem, reason="there is a GPU")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    for provider in ("auto", "cpu", "cuda", "tensorrt"):
        models.doubling(models_dir, provider, f'task = "tensor"\nprovider = "{provider}"')
    models.doubling(models_dir, "half", 'task = "tensor"\nprovider = "tensorrt"\n[tensorrt]\nprecision = "half"')
    with Service(models_dir, {"JITNEY_LOG_LEVEL": "debug"}) as started:
        yield started


def card(service: Service, name: str) -> dict[str, object]:
    listed = service.http.get("/v1/models").json()["models"]
    return next(one for one in listed if one["name"] == name)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_requested_gpu_fails_in_one_line(service: Service, provider: str) -> None:
    found = card(service, provider)
    assert found["status"] == "failed"
    reason = str(found["reason"])
    assert re.search(rf'model\.onnx: provider: "{provider}" cannot be used: .+; allowed here: auto, cpu$', reason)
    assert "no NVIDIA GPU: libcuda.so.1 is not installed" in reason
    said = [line for line in service.log().splitlines() if f"model {provider} is not served" in line]
    assert [line.partition(" is not served: ")[2] for line in said] == [reason]


def test_auto_serves_on_the_cpu_and_says_so(service: Service) -> None:
    found = card(service, "auto")
    assert (found["status"], found["provider"], found["requested_provider"]) == ("ready", "cpu", "auto")
    assert (found["gpu"], found["placement"]) == (None, {"cpu": 1})
    assert str(found["provider_note"]).startswith("auto uses the CPU: ")
    assert f"model auto runs on cpu, {found['device']} (auto uses the CPU: " in service.log()
    assert " INFO auto 1: CPU, batches up to " in service.log()
    tensor = {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
    job = {"model": "auto", "input": {"tensors": {"x": tensor}}}
    answer = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=20"}).json()
    assert answer["output"]["tensors"]["y"]["data"] == [2, 4, 6, 8]


def test_a_requested_cpu_gives_no_note(service: Service) -> None:
    found = card(service, "cpu")
    assert (found["status"], found["provider_note"]) == ("ready", "")


def test_an_unknown_precision_is_refused_with_the_known_ones(service: Service) -> None:
    reason = str(card(service, "half")["reason"])
    assert "model.toml: tensorrt.precision: 'half' is not allowed; allowed: fp32, fp16, int8" in reason
