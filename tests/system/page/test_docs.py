"""`/docs` in a real browser: Swagger UI from our own files, which asks no other host, and calls the service."""

from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from api.openapi.operations import NOTIFICATIONS, OPERATIONS
from tests.support.api_keys import Caller, callers
from tests.support.browser import logged, requested_urls
from tests.support.gateways import GatewayProcess
from tests.support.servers import Server
from tests.support.service import Service

PATIENCE_S = 15


def find(page: webdriver.Chrome, selector: str) -> Any:
    """Wait for an element that is shown, and return it."""

    def shown(_: object) -> Any:
        found = page.find_elements(By.CSS_SELECTOR, selector)
        return found[0] if found and found[0].is_displayed() else None

    return WebDriverWait(page, PATIENCE_S, poll_frequency=0.05).until(shown)


def clear_logs(page: webdriver.Chrome) -> None:
    for log in ("browser", "performance"):
        logged(page, log)


def test_all_operations_are_shown_from_our_own_files(browser: webdriver.Chrome, service: Service) -> None:
    clear_logs(browser)
    browser.get(f"{service.url}/docs")
    find(browser, ".opblock")
    shown = {
        str(each.get_attribute("id")).rpartition("-")[2] for each in browser.find_elements(By.CLASS_NAME, "opblock")
    }
    assert shown == {*OPERATIONS, *NOTIFICATIONS}
    assert logged(browser, "browser") == []
    assert [url for url in requested_urls(browser) if not url.startswith((f"{service.url}/", "data:"))] == []


def test_a_call_can_be_tried(browser: webdriver.Chrome, service: Service) -> None:
    browser.get(f"{service.url}/docs")
    find(browser, "#operations-health-checkReadiness .opblock-summary-control").click()
    find(browser, "#operations-health-checkReadiness .try-out__btn").click()
    find(browser, "#operations-health-checkReadiness .execute").click()
    answer = find(browser, "#operations-health-checkReadiness .live-responses-table .response .microlight")
    assert '"digits": "ready"' in answer.text
    assert logged(browser, "browser") == []


def test_a_service_with_keys_asks_for_one(browser: webdriver.Chrome) -> None:
    queue = Server()
    with GatewayProcess(queue) as gateway:
        (caller,) = callers(queue, gateway, "acme")
        nobody = Caller(gateway, "")
        assert nobody.get("/openapi.json").status_code == 401
        assert nobody.get("/docs").status_code == 200
        browser.get(f"http://127.0.0.1:{gateway.port}/docs")
        find(browser, "#key").send_keys(caller.headers["authorization"].removeprefix("Bearer "))
        find(browser, "#key-form button").click()
        find(browser, ".opblock")
        assert not browser.find_element(By.ID, "key-form").is_displayed()
        find(browser, "#operations-jobs-listJobs .opblock-summary-control").click()
        find(browser, "#operations-jobs-listJobs .try-out__btn").click()
        find(browser, "#operations-jobs-listJobs .execute").click()
        answer = find(browser, "#operations-jobs-listJobs .live-responses-table .response .microlight")
        assert '"jobs": []' in answer.text
        assert browser.execute_script("return localStorage.length + sessionStorage.length") == 0
    queue.close()
