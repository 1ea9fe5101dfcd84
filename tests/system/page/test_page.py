"""The page in a real browser: it reads a drawn digit, shows batches, and loads nothing from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.support import models
from tests.support import waiting as support
from tests.support.browser import accessibility_violations, logged, requested_urls
from tests.support.model_files import audio, segmentation, tabular
from tests.support.service import ROOT
from tests.support.service import Service as Jitney

PATIENCE_S = 30
STROKES = {  # points on the pad, 280 wide and high, as a hand would go
    "7": [(62, 66), (140, 62), (214, 64), (176, 140), (130, 228)],
    "1": [(142, 60), (140, 110), (139, 165), (138, 220)],
}
EXAMPLES = {  # inputs that the page offers, by model
    "fares": '{"features": {"age": 0, "sex": "", "class": 0}}',
    "colors": '{"features": {"a": 0, "b": 0, "c": 0}}',
    "double": '{"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [0, 0, 0, 0]}}}',
}
TENSOR_ANSWER = '{"y":{"datatype":"FP32","shape":[4],"data":[2,4,6,8]}}'


class Service(Protocol):
    @property
    def url(self) -> str: ...


@pytest.fixture
def page(browser: webdriver.Chrome, service: Service) -> webdriver.Chrome:
    """Load the page, wait for its list of models, and clear earlier logs."""
    for log in ("browser", "performance"):
        logged(browser, log)
    browser.get(service.url)
    wait_until(browser, "document.querySelector('#model option:enabled') !== null", "a model can be chosen")
    return browser


def wait_until(page: webdriver.Chrome, condition: str, description: str) -> None:
    try:
        WebDriverWait(page, PATIENCE_S, poll_frequency=0.02).until(lambda _: page.execute_script(f"return {condition}"))
    except TimeoutException:
        says = page.find_element(By.ID, "status").text
        pytest.fail(f"not within {PATIENCE_S} s: {description}; the page says {says!r}")


def draw(page: webdriver.Chrome, digit: str) -> None:
    pad = page.find_element(By.ID, "pad").rect
    hand = ActionBuilder(page, duration=10)
    pen: Any = hand.pointer_action
    for step, (x, y) in enumerate(STROKES[digit]):
        pen.move_to_location(int(pad["x"]) + x, int(pad["y"]) + y)
        if step == 0:
            pen.pointer_down()
    pen.pointer_up()
    hand.perform()


def wait_for_answer(page: webdriver.Chrome, digit: str) -> None:
    wait_until(page, f"document.getElementById('answer').textContent === '{digit}'", f"the answer is {digit}")


@pytest.mark.parametrize("digit", STROKES)
def test_a_drawn_digit_is_read_without_a_click(page: webdriver.Chrome, digit: str) -> None:
    draw(page, digit)
    wait_for_answer(page, digit)
    bars = page.find_elements(By.CSS_SELECTOR, "#bars li")
    assert bars[0].text.split()[0] == digit
    job = page.find_element(By.CSS_SELECTOR, "#facts a")
    assert str(job.get_attribute("href")).endswith(f"/v1/jobs/{job.text}")
    if digit == "7" and (path := os.environ.get("JITNEY_SCREENSHOT")):
        save_screenshot(page, Path(path))


def save_screenshot(page: webdriver.Chrome, path: Path) -> None:
    size = {"width": 1100, "height": 760, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait_until(page, "document.getAnimations().length === 0", "the bars have settled")
    assert page.save_screenshot(str(path))
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_flood_of_single_requests_forms_batches(page: webdriver.Chrome) -> None:
    draw(page, "7")
    wait_for_answer(page, "7")
    page.find_element(By.ID, "flood").click()
    result = "document.getElementById('flood-result')"
    wait_until(page, f"['done', 'stopped'].includes({result}.dataset.state)", "the flood has ended")
    flood, words = page.execute_script(f"return [{{...{result}.dataset}}, {result}.innerText]")
    assert (flood["state"], flood["answers"]) == ("done", "256"), words
    assert float(flood["meanBatch"]) > 1
    assert "All 256 results equal: 7." in words


def test_the_page_is_quiet_and_asks_only_its_own_origin(page: webdriver.Chrome, service: Service) -> None:
    draw(page, "7")
    wait_for_answer(page, "7")
    assert logged(page, "browser") == []
    asked = requested_urls(page)
    assert any("/v1/jobs?model=" in url for url in asked)
    own = (f"{service.url.rstrip('/')}/", "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []


def test_the_page_asks_for_a_key_where_keys_exist(browser: webdriver.Chrome) -> None:
    with Jitney() as running:
        env = {**os.environ, "JITNEY_DATA_DIR": str(running.folder / "data")}
        env.pop("JITNEY_REDIS_URL", None)
        command = [sys.executable, "-m", "cli.main", "keys", "create", "--tenant", "acme"]
        made = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        at_rest = "document.getElementById('key-form').hidden"
        support.wait_until(lambda: running.http.get("/v1/models").status_code == 401, "the key closes the doors")
        browser.get(running.url)
        wait_until(browser, f"!{at_rest}", "the page asks for a key")
        key = browser.find_element(By.ID, "key")
        key.send_keys("jk_wrong", Keys.ENTER)
        wait_until(browser, f"!{at_rest}", "it asks again")
        key.clear()
        key.send_keys(made.stdout.strip(), Keys.ENTER)
        wait_until(browser, "document.querySelector('#model option:enabled') !== null", "a model can be chosen")
        assert browser.execute_script(f"return {at_rest}")
        draw(browser, "7")
        wait_for_answer(browser, "7")


def code_of(page: webdriver.Chrome, language: str) -> str:
    """Choose a language; return the code of the last request."""
    page.find_element(By.ID, f"tab-{language}").click()
    assert page.find_element(By.ID, f"tab-{language}").get_dom_attribute("aria-selected") == "true"
    return page.find_element(By.ID, "curl").text


def test_the_code_of_a_request_runs_in_each_language(page: webdriver.Chrome, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes((ROOT / "samples" / "digits" / "7_01.png").read_bytes())
    draw(page, "7")
    wait_for_answer(page, "7")
    run = {"curl": ["sh", "-c"], "python": [sys.executable, "-c"]}
    if shutil.which("node"):
        run["javascript"] = ["node", "--input-type=module", "-e"]
    for language, command in run.items():
        code = code_of(page, language)
        done = subprocess.run([*command, code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert re.search(r"label['\"]?: *['\"]7['\"]", done.stdout), f"{language}: {code} {done.stderr}"
    page.find_element(By.ID, "tab-javascript").send_keys(Keys.ARROW_RIGHT)  # beyond the last: the first
    assert page.find_element(By.ID, "curl").text.startswith("curl ")
    links = {link.get_dom_attribute("href") for link in page.find_elements(By.TAG_NAME, "a")}
    assert {"/ops", "/docs"} <= links
    assert accessibility_violations(page) == []


def test_versions_of_a_model_are_shown_with_their_role(browser: webdriver.Chrome, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "digits")
    shutil.copytree(tmp_path / "digits" / "1", tmp_path / "digits" / "2")
    with Jitney(tmp_path) as jitney:
        jitney.http.post("/v1/models/digits/share", json={"version": "1", "percent": 30})
        shown = "document.getElementById('versions-card').innerText"
        browser.get(jitney.url)
        wait_until(browser, f"{shown}.includes('30 % of new jobs, canary')", "the canary's part is shown")
        assert "70 % of new jobs" in browser.execute_script(f"return {shown}")
        jitney.http.post("/v1/models/digits/promote")
        wait_until(browser, f"{shown}.includes('100 % of new jobs')", "what has changed is shown by itself")


def test_a_model_without_images_has_a_form_for_its_input(browser: webdriver.Chrome, tmp_path: Path) -> None:
    tabular.fares(tmp_path)
    tabular.classifier(tmp_path, "colors", toml='[tabular]\ncolumns = ["a", "b", "c"]')
    models.doubling(tmp_path)
    with Jitney(tmp_path) as service:
        support.wait_until(lambda: len(service.http.get("/v1/models").json()["models"]) == 3, "all models are served")
        browser.get(service.url)
        wait_until(browser, "document.querySelectorAll('#model option:enabled').length === 3", "models can be chosen")
        written, choice = (browser.find_element(By.ID, name) for name in ("written", "model"))

        def run(model: str, job_input: str, expected: str) -> None:
            choice.find_element(By.CSS_SELECTOR, f"option[value={model}]").click()
            assert json.loads(str(written.get_property("value"))) == json.loads(EXAMPLES[model])
            browser.execute_script("arguments[0].value = arguments[1]", written, job_input)
            browser.find_element(By.ID, "read").click()
            wait_until(
                browser, f"document.getElementById('answer').textContent === {expected!r}", f"{model}: {expected}"
            )

        run("fares", '{"features": {"age": 29, "sex": "female", "class": 2}}', "2129")
        assert '-d \'{"model":"fares","input":{"features"' in browser.find_element(By.ID, "curl").text
        done = subprocess.run(
            [sys.executable, "-c", code_of(browser, "python")], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("succeeded ")
        code_of(browser, "curl")
        run("colors", '{"row": [0.25, 0.5, 0.125]}', "green")
        assert "50.0 %" in browser.find_element(By.ID, "bars").text
        run("double", '{"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}}', TENSOR_ANSWER)
        browser.execute_script("arguments[0].value = '{'", written)
        browser.find_element(By.ID, "read").click()
        assert "The input is not JSON" in browser.find_element(By.ID, "status").text
        browser.execute_script("arguments[0].value = arguments[1]", written, EXAMPLES["double"])
        browser.find_element(By.ID, "flood").click()
        wait_until(browser, "document.getElementById('flood-result').dataset.state === 'done'", "the flood is over")
        assert browser.find_element(By.ID, "flood-result").get_dom_attribute("data-answers") == "256"


def test_a_model_for_audio_has_a_form_for_a_file(browser: webdriver.Chrome, tmp_path: Path) -> None:
    folder = audio.statistics(
        tmp_path / "models",
        "sounds",
        'task = "audio-classification"\n[audio]\nsample_rate = 16000\n'
        '[classification]\nlabels = "labels.txt"\nsoftmax = false',
    )
    (folder / "labels.txt").write_text("\n".join(audio.LABELS))
    models.doubling(tmp_path / "models")
    (tmp_path / "tone.wav").write_bytes(audio.steps(0.5, -0.25))
    (tmp_path / "page.txt").write_text("no sound")
    with Jitney(tmp_path / "models") as service:
        support.wait_until(lambda: len(service.http.get("/v1/models").json()["models"]) == 2, "all models are served")
        logged(browser, "browser")
        browser.get(service.url)
        wait_until(browser, "document.querySelectorAll('#model option:enabled').length === 2", "models can be chosen")
        choice, file = (browser.find_element(By.ID, name) for name in ("model", "file"))
        choice.find_element(By.CSS_SELECTOR, "option[value=sounds]").click()
        shown = {name: browser.find_element(By.ID, name).is_displayed() for name in ("sound", "surface", "written")}
        assert shown == {"sound": True, "surface": False, "written": False}
        assert file.get_dom_attribute("accept") == "audio/*"
        browser.find_element(By.ID, "read").click()
        assert browser.find_element(By.ID, "status").text == "Choose an audio file first."
        file.send_keys(str(tmp_path / "page.txt"))
        assert "“page.txt” is text/plain, not audio." in browser.find_element(By.ID, "status").text
        file.send_keys(str(tmp_path / "tone.wav"))
        wait_until(browser, "document.getElementById('answer').textContent === 'quiet'", "the audio has its answer")
        assert "50.0 %" in browser.find_element(By.ID, "bars").text
        assert "--data-binary '@tone.wav'" in browser.find_element(By.ID, "curl").text
        wait_until(browser, "document.getElementById('sound').duration === 0.5", "the audio can be played")
        browser.find_element(By.ID, "flood").click()
        wait_until(browser, "document.getElementById('flood-result').dataset.state === 'done'", "the flood is over")
        assert browser.find_element(By.ID, "flood-result").get_dom_attribute("data-answers") == "256"
        assert logged(browser, "browser") == []
        choice.find_element(By.CSS_SELECTOR, "option[value=double]").click()
        assert not browser.find_element(By.ID, "sound").is_displayed()


def test_a_mask_is_shown_over_its_picture(browser: webdriver.Chrome, tmp_path: Path) -> None:
    segmentation.colours(tmp_path / "models", cell=1)
    picture = Image.new("RGB", (384, 256))
    picture.paste((255, 0, 0), (0, 0, 192, 256))
    picture.save(tmp_path / "half.png")
    with Jitney(tmp_path / "models") as service:
        browser.get(service.url)
        wait_until(browser, "document.querySelector('#model option:enabled') !== null", "a model can be chosen")
        logged(browser, "browser")  # of earlier pages
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "half.png"))
        wait_until(browser, "!document.getElementById('mask').hidden", "the mask is shown")
        labels = browser.find_element(By.ID, "bars").text
        assert "red thing" in labels
        assert "50.0 %" in labels
        at = "[...document.getElementById('mask').getContext('2d').getImageData({}, 128, 1, 1).data]"
        red, nothing = (browser.execute_script(f"return {at.format(x)}") for x in (20, 360))
        assert (red[3], nothing[3]) == (150, 0)
        assert abs(red[0] - 157) <= 2  # 60 + 97
        browser.find_element(By.ID, "clear").click()
        assert browser.execute_script("return document.getElementById('mask').hidden")
        assert logged(browser, "browser") == []
