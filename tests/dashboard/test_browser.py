"""The dashboard in a real browser: a person asks about an example and looks at what comes back."""

import re
import shutil
from pathlib import Path

import pytest

from dashboard.examples import EXAMPLES
from tests.dashboard.visits import running, tiny_session
from utils.drawing import colour_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

if CHROMIUM is None:
    pytest.skip("no chromium on PATH; `apt-get install chromium` brings one", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: ./build.sh --dev")


@pytest.fixture(scope="module")
def server():
    with running(tiny_session()) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Screen:
    """A page and what it complained about; `abroad` lists requests to other hosts."""

    def __init__(self, browser, url: str, width: int):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.page.set_default_timeout(20_000)
        self.errors, self.abroad = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("dialog", lambda dialog: (self.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._check(request.url, url))
        self.page.goto(url)
        self.page.wait_for_selector("#ground-ask:not([disabled])")

    def _check(self, address: str, home: str) -> None:
        if not address.startswith((home, "data:", "blob:")):
            self.abroad.append(address)

    def ask_about_example(self, number: int = 0) -> None:
        self.page.locator("#ground-examples button").nth(number).click()
        self.page.wait_for_function(
            f"document.querySelector('#ground-prompt textarea').value == {EXAMPLES[number][1]!r}"
        )
        self.page.wait_for_selector("#ground-picture img")
        self.page.click("#ground-ask")
        self.page.wait_for_selector("#ground-targets .target >> nth=1")
        self.page.wait_for_selector("#ground-ask:not([disabled])")

    def wait_until_still(self) -> None:
        self.page.wait_for_function(
            "[...document.querySelectorAll('#ground-targets img, #ground-overlay img')].every(image => image.complete)"
        )


@pytest.fixture
def screen(request, browser, server):
    screen = Screen(browser, server.url, getattr(request, "param", 1280))
    yield screen
    assert screen.errors == [] and screen.abroad == []
    screen.page.close()


@pytest.mark.parametrize("screen", [1280, 420], indirect=True)
def test_a_person_asks_about_an_example_and_looks_around(screen, tmp_path):
    page = screen.page
    screen.ask_about_example()
    screen.wait_until_still()

    # Every [SEG] has a badge in the colour of its mask, and a mask with its similarity map beside it.
    badges = page.locator("#ground-answer .seg")
    assert badges.all_inner_texts() == ["[SEG 1]", "[SEG 2]"]
    for number in range(2):
        colour = badges.nth(number).evaluate("badge => getComputedStyle(badge).backgroundColor")
        assert tuple(map(int, re.findall(r"\d+", colour)))[:3] == colour_of(number)
    assert page.locator("#ground-targets .target").count() == 2
    assert page.locator("#ground-targets img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    assert page.locator("#ground-targets img").count() == 4

    # Another opacity draws another overlay; the model is not asked.
    before = page.locator("#ground-overlay img").get_attribute("src")
    page.locator("#ground-opacity input[type=number]").fill("0.9")
    page.locator("#ground-opacity input[type=number]").press("Tab")
    page.wait_for_function(f"document.querySelector('#ground-overlay img').src != {before!r}")

    # Another layer gives another map.
    page.get_by_label("This layer").check()
    page.wait_for_selector("#ground-layer input[type=number]")
    page.locator("#ground-layer input[type=number]").fill("1")
    page.locator("#ground-layer input[type=number]").press("Tab")
    page.wait_for_selector("#ground-targets figcaption >> text=layer 1")

    with page.expect_download() as download:
        page.click("#ground-download-masks")
    assert Path(download.value.path()).read_bytes()[:2] == b"PK"

    # Nothing is cut off at this width.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_reload_in_the_middle_of_an_answer_leaves_a_working_page(screen):
    page = screen.page
    page.locator("#ground-examples button").nth(1).click()
    page.wait_for_selector("#ground-picture img")
    page.click("#ground-ask")
    page.reload()
    page.wait_for_selector("#ground-ask:not([disabled])")
    screen.errors.clear()  # of requests that the reload broke off
    screen.ask_about_example(2)
    assert page.locator("#ground-answer .seg").count() == 2


def test_an_answer_can_be_stopped(screen, server):
    page, session = screen.page, server.context.model.get()
    page.locator("#ground-examples button").first.click()
    page.wait_for_selector("#ground-picture img")
    with session.slowed(0.3):
        page.click("#ground-ask")
        page.wait_for_selector("#ground-answer >> text=Sure")
        page.click("#ground-stop")
        page.wait_for_selector("#ground-answer >> text=Stopped.")
        page.wait_for_selector("#ground-ask:not([disabled])")
        page.wait_for_timeout(1000)  # nothing of the old answer may come after

    answer = page.inner_text("#ground-answer")
    assert "Sure" in answer and "Stopped." in answer and "[SEG 2]" not in answer
    assert server.context.answers.idle


def test_html_in_a_question_is_shown_as_it_is_written(screen):
    page = screen.page
    evil = "<img src=x onerror=alert(1)> ${alert(2)} {{alert(3)}}"
    page.locator("#ground-examples button").first.click()
    page.wait_for_selector("#ground-picture img")
    page.locator("#ground-prompt textarea").fill(evil)
    page.click("#ground-ask")
    page.wait_for_selector("#ground-targets .target")
    page.locator("#ground-history-box button").first.click()
    page.wait_for_selector("#ground-history img")
    assert page.locator("#ground-history img[src='x']").count() == 0
    assert evil in page.locator("#ground-history").inner_text()


def test_a_person_leaves_the_instruction_empty(screen):
    screen.page.click("#ground-ask")
    screen.page.wait_for_selector("#ground-answer .problem >> text=Please type")
