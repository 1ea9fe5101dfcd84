"""The page docs/how-to/javascript-client.md, executed as it stands in Node and in a browser."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Chromedriver

from tests.support.how_to import DOCUMENTED_URL, Page, prepare_folder, run
from tests.support.service import DIGITS, Service

BLOCKS = Page("javascript-client.md").blocks("js")
IN_BROWSER = [block for block in BLOCKS if block.startswith("// browser:")]
IN_NODE = [block for block in BLOCKS if block not in IN_BROWSER]
BOTH = [block for block in IN_NODE if "readFile" not in block]


@pytest.fixture(scope="module")
def node() -> str:
    path = shutil.which("node")
    if path is None or int(run([path, "-p", "process.versions.node.split('.')[0]"], Path.cwd())) < 20:
        pytest.skip("Node 20 is not installed")
    return path


def test_the_client_of_the_page_works_in_node(node: str, service: Service, tmp_path: Path) -> None:
    folder = prepare_folder(tmp_path)
    (folder / "client.mjs").write_text("\n".join(IN_NODE).replace(DOCUMENTED_URL, service.url))
    expected = ["succeeded 7", "succeeded 3", "failed invalid_image", "succeeded 5", "0 1 2"]
    assert run([node, "client.mjs"], folder).splitlines() == expected


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Chromedriver(executable_path=chromedriver))
    yield driver
    driver.quit()


def test_the_client_of_the_page_works_in_a_browser(browser: webdriver.Chrome, service: Service) -> None:
    browser.get(f"{service.url}/healthz")
    image = base64.b64encode(DIGITS[-1].read_bytes()).decode()
    steps = """
        const bytes = Uint8Array.from(atob(image), (one) => one.charCodeAt(0));
        const file = new File([bytes], "digit.png", { type: "image/png" });
        const label = await classify(file);
        const ends = [];
        for await (const { name } of events(`/v1/jobs/${(await submit(file)).id}/events`)) ends.push(name);
        const job = await submit(file);
        const last = await new Promise((done) => {
            follow(job.id, (state, data) => data.output && done([state, data.id === job.id]));
        });
        return [label, ends.at(-1), ...last];
    """
    code = "\n".join([*BOTH, *IN_BROWSER]).replace(DOCUMENTED_URL, "")
    script = (
        f"const [image, reply] = arguments; (async () => {{ {code} {steps} }})().then(reply, (e) => reply(String(e)));"
    )
    browser.set_script_timeout(30)
    assert browser.execute_async_script(script, image) == ["9", "succeeded", "succeeded", True]
