"""examples/one_file_demo.py as it stands: its page, and the request of the classic tutorial."""

import os
import subprocess
import sys

import httpx2

from tests.support.servers import free_port
from tests.support.service import DIGITS, ROOT
from tests.support.waiting import wait_until


def test_a_model_behind_a_page_in_one_file() -> None:
    port = free_port()
    command = [sys.executable, str(ROOT / "examples" / "one_file_demo.py")]
    process = subprocess.Popen(command, env={**os.environ, "JITNEY_PORT": str(port)}, stdin=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:

            def up() -> bool:
                try:
                    return http.get("/").status_code == 200
                except httpx2.TransportError:
                    return False

            wait_until(up, "the demo answers", 30)
            assert '<input type=file accept="image/*"' in http.get("/").text
            files = {"image": (DIGITS[-1].name, DIGITS[-1].read_bytes())}
            told = http.post("/predict", files=files).json()
            assert (told["success"], told["predictions"][0]["label"]) == (True, DIGITS[-1].name[0])
            broken = http.post("/predict", files={"image": ("x.png", b"no picture")})
            assert (broken.status_code, broken.json()["success"]) == (400, False)
            assert "allowed: JPEG" in broken.json()["detail"]
    finally:
        process.terminate()
        process.wait(10)
