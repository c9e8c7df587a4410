# SPDX-License-Identifier: Apache-2.0
"""The page: a real process, asked through `gradio_client` and by a real browser."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Running

if importlib.util.find_spec("gradio") is None:
    pytest.skip("needs the extra ui (gradio)", allow_module_level=True)
PATIENCE = 60  # seconds until a browser must have shown something


@pytest.fixture(scope="module")
def page(tiny_model: Path) -> Iterator[Running]:
    running = Running(tiny_model, "--context", "8192", "--parallel", "2", "--max-queue", "1", command="ui")
    yield running
    assert running.stop() == 0
    assert not any("Traceback" in line for line in running.lines), running.lines


# ---- programs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(page: Running) -> Any:
    from gradio_client import Client

    return Client(page.url, verbose=False, analytics_enabled=False)


def ask(client: Any, text: str, history: list[Any]) -> Any:
    """Return the job of an answer, asked for as the vendor's client does it."""
    empty, history = client.predict(user_message=text, history=history, api_name="/get_user_input")
    assert empty == ""
    assert history[-1] == [text, None]
    return client.submit(history=history, api_name="/get_RKLLM_output")


def test_a_client_of_the_vendors_page_gets_answers_that_grow(client: Any) -> None:
    seen = list(ask(client, "Once upon a time", []))
    texts = [history[-1][1] for history in seen]
    assert len(texts) > 1
    assert texts[-1]
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:]))
    longer = ask(client, "And then?", seen[-1]).result(timeout=PATIENCE)
    assert [pair[0] for pair in longer] == ["Once upon a time", "And then?"]
    assert longer[0] == seen[-1][0]


def test_the_example_client_talks_with_the_page(page: Running, repo: Path) -> None:
    script = [sys.executable, repo / "examples" / "clients" / "page_client.py", "--url", page.url]
    ran = subprocess.run(script, input="Hello\n\n", capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout) > len("> \n> ")


def test_a_wrong_history_is_refused_in_a_sentence(client: Any) -> None:
    with pytest.raises(Exception, match="history must be a list"):
        client.predict(history=["text"], api_name="/get_RKLLM_output")


def test_several_users_share_the_engine_and_one_too_many_is_told(page: Running) -> None:
    from gradio_client import Client

    def outcome(job: Any) -> str:
        try:
            return str(job.result(timeout=PATIENCE)[-1][1])
        except Exception as error:
            return f"refused: {error}"

    clients = [Client(page.url, verbose=False, analytics_enabled=False) for _ in range(3)]
    # Two are computed together and one waits; whoever comes then is refused.
    jobs = [ask(each, f"Question {i}", []) for i, each in enumerate([*clients, *clients])]
    outcomes = [outcome(job) for job in jobs]
    refused = [each for each in outcomes if each.startswith("refused")]
    assert len(refused) < len(outcomes)
    assert all("wait already" in each for each in refused)


def test_only_the_vendors_names_are_for_programs(page: Running) -> None:
    with urllib.request.urlopen(f"{page.url}/gradio_api/info") as reply:
        assert set(json.load(reply)["named_endpoints"]) == {"/get_user_input", "/get_RKLLM_output"}


def test_the_page_asks_for_a_password_when_one_is_set(tiny_model: Path) -> None:
    from gradio_client import Client

    running = Running(tiny_model, "--auth", "me:secret", command="ui")
    try:
        with pytest.raises(Exception, match="credentials"):
            Client(running.url, verbose=False, analytics_enabled=False)
        known = Client(running.url, auth=("me", "secret"), verbose=False, analytics_enabled=False)
        assert known.predict("a", [], api_name="/get_user_input")[1] == [["a", None]]
    finally:
        assert running.stop() == 0


def test_answers_end_before_the_server_does(tiny_model: Path) -> None:
    from gradio_client import Client

    running = Running(tiny_model, "--context", "4096", command="ui")
    client = Client(running.url, verbose=False, analytics_enabled=False)
    job = ask(client, "Once upon a time", [])
    wait_for(lambda: job.outputs())
    assert running.stop() == 0
    assert job.outputs()[-1][-1][1]


# ---- a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_browser() -> Iterator[Callable[[int, int], Any]]:
    """Return what opens a headless Chromium of a width and height, or skip without one."""
    pytest.importorskip("selenium")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    opened = []

    def open_one(width: int, height: int) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        opened.append(webdriver.Chrome(options=options, service=Service(driver)))
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        opened[-1].execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        return opened[-1]

    yield open_one
    for each in opened:
        each.quit()


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if found := condition():
                return found
        except Exception as error:
            if type(error).__name__ != "StaleElementReferenceException":  # the page has drawn it anew meanwhile
                raise
        assert time.monotonic() < deadline, "the browser did not show it"
        time.sleep(0.1)


class Shown:
    """The page in a browser."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        wait_for(lambda: self.all("#question textarea"))

    def all(self, selector: str) -> list[Any]:
        return [each for each in self.browser.find_elements("css selector", selector) if each.is_displayed()]

    def texts(self, role: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.innerText)"
        found: list[str] = self.browser.execute_script(script, f"#conversation .{role}.message")
        return [text.strip() for text in found]

    def ask(self, text: str) -> None:
        self.all("#question textarea")[0].send_keys(text + "\n")

    def press(self, selector: str) -> bool:
        """Press a button, if it is there."""
        script = "const found = document.querySelector(arguments[0]); found?.click(); return found !== null"
        return bool(self.browser.execute_script(script, selector))

    def is_answering(self) -> bool:
        return bool(self.all("#question .stop-button"))

    def requested(self) -> set[str]:
        rows = [json.loads(row["message"])["message"] for row in self.browser.get_log("performance")]
        sent = [row["params"]["request"]["url"] for row in rows if row["method"] == "Network.requestWillBeSent"]
        return {url for url in sent if not url.startswith(("data:", "blob:"))}


def test_a_browser_loads_types_streams_stops_and_reloads(
    page: Running, open_browser: Callable[[int, int], Any]
) -> None:
    shown = Shown(open_browser(1280, 800), page.url)
    shown.ask("Once upon a time")
    assert wait_for(lambda: shown.texts("user"))[-1] == "Once upon a time"
    first = wait_for(lambda: next(iter(shown.texts("bot")), ""))
    wait_for(lambda: "tokens/s" in shown.all("#status")[0].text)
    wait_for(lambda: len(shown.texts("bot")[-1]) > len(first) or not shown.is_answering())
    shown.press("#question .stop-button")
    wait_for(lambda: shown.all("#question .submit-button"))
    answer = shown.texts("bot")[-1]
    time.sleep(1)
    assert shown.texts("bot")[-1] == answer
    shown.browser.refresh()
    assert wait_for(lambda: shown.texts("bot"))[-1] == answer
    assert shown.texts("user") == ["Once upon a time"]
    shown.ask("Go on")
    wait_for(lambda: len(shown.texts("bot")) == 2)
    assert {url for url in shown.requested() if not url.startswith(page.url)} == set()


def test_nothing_is_asked_without_a_question(page: Running, open_browser: Callable[[int, int], Any]) -> None:
    shown = Shown(open_browser(1280, 800), page.url)
    shown.ask("  ")
    time.sleep(1)
    assert (shown.texts("user"), shown.is_answering()) == ([], False)
    shown.ask("Hello")
    wait_for(lambda: shown.texts("bot"))
    finished(shown)
    shown.ask("Hello again")
    wait_for(lambda: len(shown.texts("bot")) == 2)
    assert len(shown.texts("user")) == 2


def test_a_retried_answer_replaces_the_old_one(page: Running, open_browser: Callable[[int, int], Any]) -> None:
    shown = Shown(open_browser(1280, 800), page.url)
    shown.ask("Hello")
    first = finished(shown)
    wait_for(lambda: shown.press("#conversation button[aria-label='Retry']"))
    wait_for(lambda: shown.texts("bot") not in ([], [first]))
    assert finished(shown) != first
    assert (len(shown.texts("user")), len(shown.texts("bot"))) == (1, 1)


def finished(shown: Shown) -> str:
    """Stop an answer that has begun, and return it."""
    wait_for(lambda: "tokens/s" in shown.all("#status")[0].text)
    shown.press("#question .stop-button")
    wait_for(lambda: shown.all("#question .submit-button"))
    return shown.texts("bot")[-1]


def test_a_wrong_setting_is_told_and_the_page_goes_on(page: Running, open_browser: Callable[[int, int], Any]) -> None:
    shown = Shown(open_browser(1280, 800), page.url)
    seed = shown.all("#seed textarea, #seed input")[0]
    seed.send_keys("seven")
    shown.ask("Hello")
    assert "the seed is 'seven'" in wait_for(lambda: shown.all(".toast-body"))[0].text
    wait_for(lambda: shown.all("#question .submit-button"))


def test_a_phone_shows_the_page_without_scrolling_sideways(
    page: Running, open_browser: Callable[[int, int], Any]
) -> None:
    shown = Shown(open_browser(390, 844), page.url)
    shown.ask("Hello")
    wait_for(lambda: shown.texts("bot"))
    assert shown.browser.execute_script("return document.documentElement.scrollWidth") <= 390
    box = shown.all("#question textarea")[0].rect
    assert box["x"] >= 0
    assert box["width"] > 200
    assert box["y"] + box["height"] <= 844


def test_an_open_page_does_not_hold_up_the_end(tiny_model: Path, open_browser: Callable[[int, int], Any]) -> None:
    running = Running(tiny_model, "--drain", "100", command="ui")
    Shown(open_browser(800, 600), running.url)
    running.process.terminate()
    assert running.process.wait(timeout=50) == 0
    assert running.ended() == 0
    assert not any("Traceback" in line for line in running.lines), running.lines


def test_a_closed_browser_frees_its_place(page: Running, open_browser: Callable[[int, int], Any]) -> None:
    from gradio_client import Client

    for _ in range(3):
        browser = open_browser(800, 600)
        shown = Shown(browser, page.url)
        shown.ask("Tell me a story without an end")
        wait_for(lambda: shown.texts("bot"))  # noqa: B023 - called in this round
        browser.get("about:blank")
    client = Client(page.url, verbose=False, analytics_enabled=False)
    assert ask(client, "Anybody there?", []).result(timeout=PATIENCE)[-1][1]
