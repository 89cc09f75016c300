"""The Ground tab in a real browser: a person asks about an example and looks at what comes back."""

import re
import threading
import zipfile
from contextlib import contextmanager

import pytest

from dashboard.examples import EXAMPLES
from groundscore.colours import contrast
from tests.dashboard.screens import Screen
from tests.dashboard.visits import running, tiny_session

READY = "#ground-ask:not([disabled])"


@pytest.fixture(scope="module")
def server():
    with running(tiny_session()) as server:
        yield server


class GroundScreen(Screen):
    """The Ground tab, after the first sight: an example with its answer."""

    def __init__(self, browser, url: str, width: int = 1280):
        super().__init__(browser, url, width, READY)
        self.page.wait_for_selector(".turn.shown")

    @property
    def question(self):
        return self.page.locator("#ground-prompt textarea")

    def choose_example(self, number: int = 0) -> None:
        self.page.locator("#ground-examples button").nth(number).click()
        self.page.wait_for_function(
            f"document.querySelector('#ground-prompt textarea').value == {EXAMPLES[number].question!r}"
        )
        self.page.wait_for_selector(".turn.shown", state="detached")

    def ask_about_example(self, number: int = 0) -> None:
        self.choose_example(number)
        self.page.click("#ground-ask")
        self.page.wait_for_selector(f".turn.newest.shown >> text={EXAMPLES[number].question}")
        self.page.wait_for_selector(READY)

    def wait_until_still(self) -> None:
        self.page.wait_for_function("[...document.images].every((image) => image.complete)")

    def masks(self) -> int:
        """Masks that can be seen on the image."""
        return self.page.locator("#ground-viewer svg g > path.fill:visible").count()

    def prompt_is(self, text: str) -> None:
        self.page.wait_for_function(f"document.querySelector('#ground-prompt textarea').value == {text!r}")


@pytest.fixture
def screen(request, browser, server):
    screen = GroundScreen(browser, server.url, getattr(request, "param", 1280))
    yield screen
    screen.leave()


@contextmanager
def somebody_else(server):
    """The model is busy with another visitor's question, until the block ends."""
    free = threading.Event()
    other = threading.Thread(target=lambda: list(server.context.answers.run("somebody", lambda _: free.wait(60))))
    other.start()
    try:
        yield free
    finally:
        free.set()
        other.join()


@pytest.mark.parametrize("screen", [1280, 390], indirect=True)
def test_a_person_asks_about_an_example_and_looks_around(screen, tmp_path):
    page = screen.page
    assert screen.masks() == 2  # an answered example is there before anything is done
    screen.ask_about_example(1)

    # The image, its masks and what is said of them belong to the turn that is marked.
    badges = page.locator(".turn.shown .seg")
    assert badges.all_inner_texts() == ["[SEG 1]", "[SEG 2]"]
    for badge in badges.all():
        styles = badge.evaluate("badge => [getComputedStyle(badge)].map(s => [s.backgroundColor, s.color])[0]")
        beneath, ink = (tuple(map(int, re.findall(r"\d+", colour)))[:3] for colour in styles)
        assert contrast(beneath, ink) >= 4.5
    assert page.locator("#ground-viewer .labels text").all_text_contents() == ["1", "2"]
    facts = page.locator("#ground-viewer .legend li").first.inner_text()
    assert "% of the image" in facts and "score" in facts and "layer" in facts
    screen.prompt_is("")  # ready for the next question

    # One is lit, switched off, faded; before and after; closer.
    page.mouse.move(0, 0)
    badges.nth(1).hover()
    page.wait_for_selector("#ground-viewer .stage g.lit[data-target='2']", state="attached")
    page.get_by_label("Show mask 2").uncheck()
    assert screen.masks() == 1
    page.get_by_label("Opacity").fill("100")
    assert page.locator("#ground-viewer .fill").first.evaluate("path => path.style.fillOpacity") == "1"
    page.get_by_label("Before | after").fill("50")
    width = page.locator("#ground-viewer image").evaluate("image => image.width.baseVal.value")
    assert page.locator("#ground-viewer clipPath rect").evaluate("rect => rect.x.baseVal.value") == width / 2
    page.get_by_label("Zoom in").click()
    assert page.locator("#ground-viewer svg").evaluate("svg => svg.viewBox.baseVal.width") < width

    # Another layer gives other masks.
    page.get_by_label("This layer").check()
    page.wait_for_selector("#ground-layer input[type=number]")
    screen.fill("#ground-layer", "1")
    page.wait_for_selector("#ground-viewer .legend >> text=layer 1")

    with page.expect_download() as download:
        page.click("#ground-download")
    assert download.value.suggested_filename == "clocks.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        assert "clocks_mask_2.png" in archive.namelist()

    # Nothing is cut off at this width.
    assert not screen.cut_off()


@pytest.mark.parametrize("screen", [390], indirect=True)
def test_on_a_phone_the_page_goes_where_the_answer_is(screen):
    page = screen.page
    screen.choose_example(1)
    page.wait_for_function("document.querySelector('#ground-viewer').getBoundingClientRect().top < innerHeight")
    screen.question.press("Enter")
    page.wait_for_selector(".turn.newest.shown")
    seen = "selector => [document.querySelector(selector).getBoundingClientRect()]"
    seen += ".every(box => box.bottom > 0 && box.top < innerHeight)"
    for selector in (".turn.newest .answer", "#ground-viewer svg"):
        page.wait_for_function(seen, arg=selector)


def test_turns_are_opened_with_all_that_belongs_to_them_and_deleted(screen):
    page = screen.page
    page.get_by_label("This layer").check()
    page.wait_for_selector("#ground-layer input[type=number]")
    screen.fill("#ground-layer", "1")
    screen.ask_about_example(1)
    screen.choose_example(2)  # another image: no masks, no turn
    page.wait_for_selector("#ground-viewer .legend li", state="detached")
    page.get_by_label("Policy's choice").check()
    page.wait_for_selector("#ground-layer input[type=number]", state="hidden")

    page.locator(".turn", has_text="red clock").click()
    page.wait_for_selector(".turn.shown >> text=red clock")
    screen.prompt_is(EXAMPLES[1].question)
    page.wait_for_selector("#ground-viewer .legend >> text=layer 1")
    assert page.get_by_label("This layer").is_checked()
    assert page.locator("#ground-layer input[type=number]").input_value() == "1"
    page.wait_for_selector("#ground-picture img[src*=clocks]")

    page.get_by_label("Follow-up question").check()
    screen.question.fill("And what is beside it?")
    screen.question.press("Enter")
    page.wait_for_selector(".turn.newest.shown >> text=And what is beside it?")

    screen.wait_until_still()  # what is deleted cannot be loaded any more
    page.click("#ground-forget")
    page.wait_for_selector(".turn", state="detached")
    page.wait_for_selector("#ground-picture img", state="detached")
    assert page.locator("#ground-download").is_disabled() and screen.masks() == 0


def test_enter_asks_and_shift_enter_makes_a_line(screen):
    screen.choose_example(0)
    screen.question.fill("Where is")
    screen.question.press("Shift+Enter")
    screen.page.keyboard.type("the house?")
    screen.prompt_is("Where is\nthe house?")
    screen.question.press("Enter")
    screen.page.wait_for_selector(".turn.newest.shown >> text=the house?")


def test_who_waits_sees_the_place_in_the_queue_and_can_leave_it(screen, server):
    page = screen.page
    screen.choose_example(1)
    with somebody_else(server):
        page.click("#ground-ask")
        page.wait_for_selector(".turn.running >> text=In the queue: 1 question comes before yours")
        page.wait_for_selector(".turn.running >> text=· 1 s")
        page.click("#ground-stop")
        page.wait_for_selector(".turn.newest >> text=Stopped.")
        page.wait_for_selector(READY)
    screen.prompt_is(EXAMPLES[1].question)  # to ask again


def test_an_answer_can_be_stopped_and_cleared_away(screen, server):
    page, session = screen.page, server.context.model.get()
    screen.choose_example(1)
    with session.slowed(0.3):
        page.click("#ground-ask")
        page.wait_for_selector(".turn.running >> text=Writing the answer")
        page.click("#ground-stop")
        page.wait_for_selector(".turn.newest >> text=Stopped.")
        page.wait_for_selector(READY)
        assert "[SEG 2]" not in page.inner_text(".turn.newest")

        page.click("#ground-ask")
        page.wait_for_selector(".turn.running >> text=Sure")
        page.click("#ground-clear")
        page.wait_for_selector(".turn.running", state="detached")
        page.wait_for_selector(READY)
        page.wait_for_timeout(1000)  # nothing of the old answer may come after
    assert page.locator(".turn").count() == 1 and screen.masks() == 0
    assert page.locator("#ground-picture img").count() == 0
    screen.prompt_is("")


def test_a_file_that_is_no_image_is_refused_and_the_page_goes_on(screen, tmp_path):
    (tmp_path / "<img src=x onerror=alert(1)>.png").write_bytes(b"not a picture")
    screen.page.set_input_files("#ground-picture input[type=file]", tmp_path / "<img src=x onerror=alert(1)>.png")
    screen.page.wait_for_selector("#ground-talk .problem >> text=not an image")
    screen.ask_about_example()


def test_two_people_ask_at_once_and_see_their_own_answer(browser, server):
    screens = [GroundScreen(browser, server.url) for _ in range(2)]
    for number, screen in enumerate(screens):
        screen.choose_example(number + 1)
    for screen in screens:
        screen.page.click("#ground-ask", no_wait_after=True)
    for number, screen in enumerate(screens):
        screen.page.wait_for_selector(f".turn.newest.shown >> text={EXAMPLES[number + 1].question}")
        assert screen.page.locator(".turn").count() == 2
        screen.leave()


def test_a_reload_keeps_what_was_typed_and_leaves_a_working_page(screen):
    page = screen.page
    screen.choose_example(1)
    page.click("#ground-ask")
    screen.question.fill("typed <b>meanwhile</b>")
    page.reload()
    page.wait_for_selector(READY)
    screen.prompt_is("typed <b>meanwhile</b>")
    screen.errors.clear()  # of requests that the reload broke off
    page.wait_for_selector(".turn.shown")
    screen.ask_about_example(2)

    screen.choose_example(1)
    page.reload()
    page.wait_for_selector(".turn.shown")
    screen.prompt_is("")  # not the question about an image that is not there any more


def test_html_in_a_question_is_shown_as_it_is_written(screen):
    evil = "<img src=x onerror=alert(1)> ${alert(2)} {{alert(3)}}"
    screen.choose_example(0)
    screen.question.fill(evil)
    screen.page.click("#ground-ask")
    screen.page.wait_for_selector(".turn.newest.shown")
    assert screen.page.locator("#ground-talk img[src='x']").count() == 0
    assert evil in screen.page.inner_text(".turn.newest")


def test_a_person_leaves_the_question_empty(screen):
    screen.page.click("#ground-ask")
    screen.page.wait_for_selector(".turn.newest .problem >> text=Please type")


def test_a_click_corrects_the_mask_that_is_chosen_and_a_box_asks_what_is_there(screen):
    page = screen.page
    screen.ask_about_example(1)
    before = page.locator("#ground-viewer .fill").nth(1).get_attribute("d")
    page.locator("#ground-viewer .pick").nth(1).click()
    page.get_by_role("button", name="+ Inside").click()
    picture = page.locator("#ground-viewer svg")
    picture.click(position={"x": 200, "y": 150})
    page.wait_for_selector("#ground-viewer .tools >> text=Undo")
    assert page.locator("#ground-viewer .fill").nth(1).get_attribute("d") != before
    page.click("#ground-viewer .tools >> text=Undo")
    page.wait_for_selector("#ground-viewer .tools >> text=Undo", state="detached")
    assert page.locator("#ground-viewer .fill").nth(1).get_attribute("d") == before

    page.locator("#ground-viewer .pick[aria-pressed=true]").click()  # none is chosen any more
    page.get_by_role("button", name="Box").click()
    corner = picture.bounding_box()
    page.mouse.move(corner["x"] + 200, corner["y"] + 100)
    page.mouse.down()
    page.mouse.move(corner["x"] + 350, corner["y"] + 250, steps=3)
    page.mouse.up()
    page.wait_for_selector(".turn.newest.shown >> text=What is there? box")
    assert screen.masks() == 1
