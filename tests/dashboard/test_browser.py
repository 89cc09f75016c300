"""The dashboard in a real browser: a person asks about an example and looks at what comes back."""

import json
import re
from pathlib import Path

import pytest

from dashboard.examples import EXAMPLES
from groundscore.colours import contrast
from tests.dashboard.screens import Screen
from tests.dashboard.visits import running, tiny_session


@pytest.fixture(scope="module")
def server():
    with running(tiny_session()) as server:
        yield server


class GroundScreen(Screen):
    """The Ground tab."""

    def ask_about_example(self, number: int = 0) -> None:
        self.page.locator("#ground-examples button").nth(number).click()
        self.page.wait_for_function(
            f"document.querySelector('#ground-prompt textarea').value == {EXAMPLES[number].question!r}"
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
    screen = GroundScreen(browser, server.url, getattr(request, "param", 1280), "#ground-ask:not([disabled])")
    yield screen
    screen.leave()


@pytest.mark.parametrize("screen", [1280, 420], indirect=True)
def test_a_person_asks_about_an_example_and_looks_around(screen, tmp_path):
    page = screen.page
    screen.ask_about_example()
    screen.wait_until_still()

    # Every [SEG] has a badge in the colour of its mask, and a mask with its similarity map beside it.
    badges = page.locator("#ground-answer .seg")
    assert badges.all_inner_texts() == ["[SEG 1]", "[SEG 2]"]
    for number in range(2):
        styles = badges.nth(number).evaluate(
            "badge => [getComputedStyle(badge)].map(s => [s.backgroundColor, s.color])[0]"
        )
        beneath, ink = (tuple(map(int, re.findall(r"\d+", colour)))[:3] for colour in styles)
        assert contrast(beneath, ink) >= 4.5
    assert page.locator("#ground-targets .target").count() == 2
    assert page.locator("#ground-targets img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    assert page.locator("#ground-targets img").count() == 4

    # Another opacity draws another overlay; the model is not asked.
    before = page.locator("#ground-overlay img").get_attribute("src")
    screen.fill("#ground-opacity", "0.9")
    screen.wait_for_change("#ground-overlay img", "src", before)

    # Another layer gives another map.
    page.get_by_label("This layer").check()
    page.wait_for_selector("#ground-layer input[type=number]")
    screen.fill("#ground-layer", "1")
    page.wait_for_selector("#ground-targets figcaption >> text=layer 1")

    with page.expect_download() as download:
        page.click("#ground-download-masks")
    assert Path(download.value.path()).read_bytes()[:2] == b"PK"

    # Nothing is cut off at this width.
    assert not screen.cut_off()


def test_a_follow_up_joins_the_history_which_can_be_looked_at_saved_and_deleted(screen):
    page = screen.page
    screen.ask_about_example()
    page.get_by_label("Follow-up question").check()
    screen.fill("#ground-prompt", "And what is beside it?")
    page.click("#ground-ask")
    page.locator("#ground-history-box button").first.click()
    pictures = page.locator("#ground-history .thumbnail-item")
    pictures.nth(1).wait_for()
    assert "And what is beside it?" in pictures.nth(0).inner_text()

    before = page.locator("#ground-overlay img").get_attribute("src")
    pictures.nth(1).click()  # the older one
    screen.wait_for_change("#ground-overlay img", "src", before)
    page.wait_for_timeout(300)
    with page.expect_download() as download:
        page.click("#ground-download-record")
    record = json.loads(Path(download.value.path()).read_text())
    assert record["prompt"] == EXAMPLES[0].question and len(record["targets"]) == 2
    with page.expect_download() as download:
        page.click("#ground-download-overlay")
    assert Path(download.value.path()).read_bytes()[1:4] == b"PNG"

    page.click("#ground-forget")
    pictures.first.wait_for(state="detached")
    page.wait_for_selector("#ground-targets .target", state="detached")
    page.wait_for_selector("#ground-picture img", state="detached")
    assert page.locator("#ground-download-record button, button#ground-download-record").first.is_disabled()


def test_clear_empties_question_and_answer(screen):
    page = screen.page
    screen.ask_about_example()
    page.click("#ground-clear")
    page.wait_for_selector("#ground-targets .target", state="detached")
    page.wait_for_selector("#ground-picture img", state="detached")
    assert page.locator("#ground-prompt textarea").input_value() == ""


def test_a_file_that_is_no_picture_is_refused_and_the_page_goes_on(screen, tmp_path):
    (tmp_path / "<img src=x onerror=alert(1)>.png").write_bytes(b"not a picture")
    screen.page.set_input_files("#ground-picture input[type=file]", tmp_path / "<img src=x onerror=alert(1)>.png")
    screen.fill("#ground-prompt", "Where is it?")
    screen.page.wait_for_selector("#ground-picture img", state="attached")
    screen.page.click("#ground-ask")
    screen.page.wait_for_selector("#ground-answer .problem >> text=not an image")
    screen.ask_about_example()


def test_two_people_ask_at_once_and_see_their_own_answer(browser, server):
    screens = [GroundScreen(browser, server.url, 1280, "#ground-ask:not([disabled])") for _ in range(2)]
    for number, screen in enumerate(screens):
        screen.page.locator("#ground-examples button").nth(number).click()
        screen.page.wait_for_selector("#ground-picture img")
    for screen in screens:
        screen.page.click("#ground-ask", no_wait_after=True)
    for number, screen in enumerate(screens):
        screen.page.wait_for_selector("#ground-targets .target")
        screen.page.wait_for_selector("#ground-ask:not([disabled])")
        screen.page.locator("#ground-history-box button").first.click()
        screen.page.wait_for_selector("#ground-history .thumbnail-item")
        (said,) = screen.page.locator("#ground-history .thumbnail-item").all_inner_texts()
        assert said.strip()[:20] == EXAMPLES[number].question[:20]
        screen.leave()


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
