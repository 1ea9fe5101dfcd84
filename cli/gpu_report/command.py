"""`jitney gpu-report`: parses its options and runs the report; imports the engines only after that."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PROVIDERS: Final = ("cpu", "cuda", "tensorrt")
DISAGREES, CANNOT_MEASURE, MISSING = 1, 2, 3  # exit codes


def main(argv: Sequence[str]) -> int:
    args = _read_options(argv)
    from cli.gpu_report.report import run  # noqa: PLC0415 (needs ONNX Runtime, which `--help` does not)

    return run(args)


def _read_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jitney gpu-report",
        description="Measure a model on CPU, CUDA and TensorRT, alone and through the queue; print JSON.",
        epilog=f"exit code: 0 all providers were measured and agree, {DISAGREES} one disagrees with the CPU, "
        f"{CANNOT_MEASURE} nothing was measured, {MISSING} a provider is not available here. See docs/how-to/gpus.md.",
    )
    add = parser.add_argument
    add("path", type=Path, nargs="?", default=Path("models/digits"), help="model folder (%(default)s)")
    add("--providers", default=",".join(PROVIDERS), metavar="NAMES", help="providers besides the CPU (%(default)s)")
    add("--device", type=int, default=0, metavar="N", help="device number of the GPU (0)")
    add("--seconds", type=float, default=2.0, help="duration per batch size and per load of the service (2)")
    add("--concurrency", type=int, default=64, metavar="N", help="requests in flight at the service (64)")
    add("--input", nargs="+", type=Path, default=[], metavar="FILE", help="request bodies, for image models")
    add("--no-service", action="store_true", help="do not measure through the queue")
    add("--engine-cache", type=Path, default=Path(".data/engines"), help="folder for engines that TensorRT builds")
    args = parser.parse_args(argv)
    names = [name.strip() for name in args.providers.split(",")]
    if not set(names) <= set(PROVIDERS):
        parser.error(f"--providers {args.providers}: must be one or more of {', '.join(PROVIDERS)}")
    if not (0 < args.seconds <= 3600 and 1 <= args.concurrency <= 4096 and 0 <= args.device < 1024):
        parser.error("--seconds: above 0, at most 3600; --concurrency: 1 to 4096; --device: 0 to 1023")
    args.providers = [name for name in PROVIDERS if name == "cpu" or name in names]
    return args
