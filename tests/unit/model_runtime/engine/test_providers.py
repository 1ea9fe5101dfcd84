"""Provider options are data, and the providers' own parsers accept each of them.

`make long NAME=provider-options` asks the parsers themselves; TAKEN is what they took, kept for machines where no
onnxruntime-gpu is. It was asked of onnxruntime-gpu 1.31.1.
"""

import os
import re
from pathlib import Path

import pytest

from model_runtime.engine import providers
from model_runtime.engine.device_info import DriverInfo
from model_runtime.engine.providers import PROVIDER_NAMES, GpuOptions
from model_runtime.spec.model_toml import Precision
from model_runtime.tensor_spec import TensorSpec
from tests.long import provider_options

ONE_GPU = DriverInfo(gpus=1, cuda=13000)
EVERYTHING = list(PROVIDER_NAMES.values())
SHAPES = r"(\w+:\d+(x\d+)*)(,\w+:\d+(x\d+)*)*"
TAKEN = {
    "CUDAExecutionProvider": {
        "device_id": r"\d+",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1",
    },
    "TensorrtExecutionProvider": {
        "device_id": r"\d+",
        "trt_fp16_enable": "True",
        "trt_int8_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": r"/.+",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": r"/.+",
        **{f"trt_profile_{which}_shapes": SHAPES for which in ("min", "opt", "max")},
    },
}


@pytest.mark.parametrize(("provider", "options"), provider_options.ours())
def test_the_parsers_accept_every_option(provider: str, options: dict[str, str]) -> None:
    for name, value in options.items():
        assert re.fullmatch(TAKEN[provider][name], value), name


@pytest.mark.skipif("GPU_PYTHON" not in os.environ, reason="GPU_PYTHON names a Python with onnxruntime-gpu")
@pytest.mark.timeout(300)
def test_the_parsers_accept_the_options_used_and_refuse_wrong_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code = provider_options.main(Path(os.environ["GPU_PYTHON"]))
    assert code == 0, capsys.readouterr().out


def test_the_cpu_provider_has_no_options() -> None:
    assert providers.provider_options("cpu", GpuOptions(device=3)) == ["CPUExecutionProvider"]


def test_cuda_takes_the_named_gpu_and_does_not_tune_again() -> None:
    asked = providers.provider_options("cuda", GpuOptions(device=3))
    options = providers.cuda_options(GpuOptions(device=3))
    assert asked == [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    assert (options["device_id"], options["cudnn_conv_algo_search"]) == ("3", "HEURISTIC")
    assert options["enable_cuda_graph"] == "1"
    assert "enable_cuda_graph" not in providers.cuda_options(GpuOptions(graphs=False))


def test_tensorrt_is_built_for_every_batch_size_at_once(tmp_path: Path) -> None:
    ports = [TensorSpec("a", "FP32", (-1, 3, 224, 224)), TensorSpec("b", "INT64", (-1,))]
    asked = providers.provider_options("tensorrt", GpuOptions(largest=16), ports, tmp_path)
    options = providers.tensorrt_options(GpuOptions(largest=16), ports, tmp_path)
    without_graphs = providers.cuda_options(GpuOptions(graphs=False))
    assert asked == [
        (PROVIDER_NAMES["tensorrt"], options),
        (PROVIDER_NAMES["cuda"], without_graphs),
        PROVIDER_NAMES["cpu"],
    ]
    assert options["trt_profile_min_shapes"] == "a:1x3x224x224,b:1"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "a:16x3x224x224,b:16"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("fp32", []), ("fp16", ["trt_fp16_enable"]), ("int8", ["trt_fp16_enable", "trt_int8_enable"])],
)
def test_tensorrt_uses_the_configured_precision(precision: Precision, flags: list[str]) -> None:
    options = providers.tensorrt_options(GpuOptions(precision=precision), [], None)
    assert [name for name in options if name.endswith("_enable")] == flags


def test_engines_are_not_cached_without_a_cache_folder() -> None:
    assert not [
        name for name in providers.tensorrt_options(GpuOptions(), [], None) if "cache" in name or "profile" in name
    ]


@pytest.mark.parametrize(
    ("driver", "built_in", "gpu", "missing"),
    [
        (ONE_GPU, EVERYTHING, 0, r"^$"),
        (DriverInfo(2, 13010), EVERYTHING, 1, r"^$"),
        (
            ONE_GPU,
            ["CPUExecutionProvider"],
            0,
            r"^the installed onnxruntime has no CUDAExecution",
        ),
        (DriverInfo(problem="no driver"), EVERYTHING, 0, r"^no driver$"),
        (DriverInfo(problem="no driver"), [], 0, r"^the installed .* in place of onnxruntime\) and no driver$"),
        (ONE_GPU, EVERYTHING, 1, r"^there is no GPU 1; allowed: 0 to 0$"),
    ],
)
def test_missing_requirements_are_named(driver: DriverInfo, built_in: list[str], gpu: int, missing: str) -> None:
    assert re.search(missing, providers.missing_requirements("cuda", gpu, driver, built_in))
    assert providers.missing_requirements("cpu", gpu, driver, built_in) == ""
