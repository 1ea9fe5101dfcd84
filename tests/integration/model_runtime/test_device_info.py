"""Readings of NVIDIA's driver, against a fake library of five functions compiled on the spot."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model_runtime.engine.device_info import DRIVER
from tests.support.processes import ROOT

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc compiles the stand-in")

SOURCE = """
#include <string.h>
int cuInit(int flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGet(int *device, int number) { *device = 100 + number; return number >= COUNT; }
int cuDeviceGetName(char *name, int size, int device) { strcpy(name, device == 101 ? "Second" : "First"); return 0; }
"""
ASK = (
    "from model_runtime.engine.device_info import device_name, query_driver; "
    "print(*query_driver(), device_name('cuda', 1, 1), sep='|')"
)


def said(folder: Path, init: int = 0, count: int = 2, version: int = 13000) -> str:
    """Return what a process reads from such a driver."""
    (folder / "driver.c").write_text(SOURCE)
    values = [f"-DINIT={init}", f"-DCOUNT={count}", f"-DVERSION={version}"]
    command = ["gcc", "-shared", "-fPIC", *values, "-o", str(folder / DRIVER), str(folder / "driver.c")]
    subprocess.run(command, check=True)
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_gpus_are_counted_and_named_by_their_number(tmp_path: Path) -> None:
    assert said(tmp_path) == "2|13000||Second"


def test_a_driver_that_does_not_start_says_its_error(tmp_path: Path) -> None:
    assert said(tmp_path, init=803) == f"0|0|no NVIDIA GPU: {DRIVER} returns CUDA error 803|Second"


def test_a_driver_without_a_gpu(tmp_path: Path) -> None:
    assert said(tmp_path, count=0) == f"0|13000|no NVIDIA GPU: {DRIVER} finds none|GPU"
