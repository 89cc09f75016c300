"""The tabs Data, Layers and Runs in a real browser: every widget is used once, and does what it says."""

import csv
import re
import threading
from pathlib import Path

import pytest

from dashboard.examples import EXAMPLES
from miniature import data
from tests.dashboard.screens import Screen
from tests.dashboard.test_experiments import write_run
from tests.dashboard.visits import running, tiny_session

DATA_READY, LAYERS_READY = "#data-draw:not([disabled])", "#layers-show:not([disabled])"
SPLIT = "refcoco|unc|val"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabs")
    data.write(folder / "dataset", seed=5, scale=0.05, sets=["refcoco", "grefcoco"])
    steps = [{"step": step, "train/loss": 5 / step, "train/lr": 0.1} for step in range(1, 30)]
    best = {"step": 20, "epoch": 1, "split": "ReasonSeg|val", "gIoU": 0.51, "cIoU": 0.25}
    evaluations = [{"step": 20, "epoch": 1, "splits": {"ReasonSeg|val": {"gIoU": 0.51, "cIoU": 0.25}}}]
    write_run(folder / "runs/first", steps, {"best": best, "evaluations": evaluations}, changed=2000)
    write_run(folder / "runs/<b>second</b>", steps[:9], changed=1000)
    return folder


@pytest.fixture(scope="module")
def server(folders):
    places = ("--dataset_dir", str(folders / "dataset"), "--runs_dir", str(folders / "runs"))
    with running(tiny_session(), None, *places, tab=None) as server:
        yield server


@pytest.fixture
def screen(request, browser, server):
    tab, ready, width = request.param
    screen = Screen(browser, server.url, width, "#ground-ask:not([disabled])")
    screen.open_tab(tab)
    screen.page.wait_for_selector(ready)
    yield screen
    assert not screen.cut_off()
    screen.leave()


def shown(tab: str, ready: str, *widths: int):
    return pytest.mark.parametrize("screen", [(tab, ready, width) for width in widths or (1280,)], indirect=True)


@shown("Data", DATA_READY, 1280, 420)
def test_samples_are_drawn_and_looked_through(screen):
    page = screen.page
    screen.wait_for_text("#data-found", "grefcoco")
    page.wait_for_selector("#data-overlay img")  # the first set, unasked
    screen.choose("#data-sets", "refer_seg/grefcoco")
    screen.fill("#data-rates", "refer_seg 2")
    screen.fill("#data-count", "7")
    screen.fill("#data-per-sample", "2")
    screen.fill("#data-seed", "3")
    page.click("#data-draw")
    screen.wait_for_text("#data-where", "Sample 1 of 7")
    page.click("#data-next")
    screen.wait_for_text("#data-where", "Sample 2 of 7")
    page.click("#data-previous")
    screen.wait_for_text("#data-where", "Sample 1 of 7")
    page.click("#data-previous")
    screen.wait_for_text("#data-where", "Sample 7 of 7")
    page.click("#data-random")
    screen.wait_for_text("#data-where", "of 7")

    # Every target has its colour in the words and a picture of its own.
    badges = page.locator("#data-conversations .seg").count()
    assert page.locator("#data-targets .thumbnail-item").count() == badges > 0
    before = page.locator("#data-overlay img").get_attribute("src")
    screen.fill("#data-opacity", "0.9")
    screen.wait_for_change("#data-overlay img", "src", before)


@shown("Data", DATA_READY)
def test_a_sample_is_found_by_the_name_of_its_file(screen):
    page = screen.page
    screen.wait_for_text("#data-where", "Sample 1 of")
    page.click("#data-next")
    screen.wait_for_text("#data-where", "Sample 2 of")
    name = page.locator("#data-fields tr", has_text="image").first.locator("td").inner_text().rpartition("/")[2]
    page.click("#data-next")
    screen.wait_for_text("#data-where", "Sample 3 of")
    search = page.locator("#data-find input, #data-find textarea").first
    search.fill(name)
    search.press("Enter")
    screen.wait_for_text("#data-fields", name)
    screen.fill("#data-count", "100000")
    page.click("#data-draw")
    screen.wait_for_text("#data-where", "Sample 1 of 100000")
    search.fill("no such file")
    search.press("Enter")
    screen.wait_for_text("#data-where", "Looking at sample")
    page.click("#data-previous")  # ends a search that takes too long
    screen.wait_for_text("#data-where", "Sample 100000 of 100000")
    page.wait_for_timeout(500)
    assert "Looking" not in page.inner_text("#data-where")
    screen.fill("#data-count", "30")
    page.click("#data-draw")
    screen.wait_for_text("#data-where", "Sample 1 of 30")
    search.fill("no such <b>file</b>")
    search.press("Enter")
    page.wait_for_selector("#data-where .problem")
    assert "no such <b>file</b>" in page.inner_text("#data-where")


@shown("Data", DATA_READY)
def test_rates_that_are_none_are_answered_by_a_sentence(screen):
    screen.wait_for_text("#data-where", "Sample 1 of")
    screen.fill("#data-rates", "refer_seg many")
    screen.page.click("#data-draw")
    screen.wait_for_text("#data-where .problem", "Rates have the form")


@shown("Layers", LAYERS_READY, 1280, 420)
def test_a_question_of_a_split_is_shown_at_every_layer(screen, server):
    page = screen.page
    page.get_by_text("Take a question from a split").click()
    screen.choose("#layers-split", SPLIT)
    screen.fill("#layers-index", "1")
    screen.fill("#layers-expression", "0")
    page.click("#layers-take")
    page.wait_for_selector("#layers-truth img")
    assert page.locator("#layers-prompt textarea").input_value().strip()
    page.click("#layers-show")
    page.wait_for_selector("#layers-grid .layer")

    number = server.context.model.get().model.config.num_layers
    words = page.locator("#layers-grid figcaption").all_inner_texts()
    found = [re.fullmatch(r"layer (\d+) · p (\d\.\d\d) · IoU (\d+\.\d)", each) for each in words]
    assert [int(one[1]) for one in found] == list(range(number))
    assert sum(float(one[2]) for one in found) == pytest.approx(1, abs=0.05)
    assert page.locator("#layers-grid .chosen").count() == 1
    bars = page.locator("#layers-grid .chance div").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
    chances = [float(one[2]) for one in found]
    assert bars.index(max(bars)) in [place for place, chance in enumerate(chances) if chance == max(chances)]
    images = page.locator("#layers-grid img")
    assert images.count() == 2 * number and images.evaluate_all("all => all.every(one => one.naturalWidth > 0)")


@shown("Layers", LAYERS_READY)
def test_an_example_has_layers_without_a_truth_and_mistakes_are_sentences(screen):
    page = screen.page
    page.click("#layers-show")
    page.wait_for_selector("#layers-grid .problem")
    page.locator("#layers-examples button").first.click()
    page.wait_for_selector("#layers-picture img")
    assert page.locator("#layers-prompt textarea").input_value() == EXAMPLES[0].question
    screen.fill("#layers-answer", "It is nothing.")
    page.click("#layers-show")
    screen.wait_for_text("#layers-grid .problem", "from 1 to 4 are shown")
    screen.fill("#layers-answer", "The house is [SEG] and the car is [SEG].")
    page.click("#layers-show")
    page.wait_for_selector("#layers-grid .layer")
    assert page.locator("#layers-grid .seg").all_inner_texts() == ["[SEG 1]", "[SEG 2]"]
    assert "IoU" not in page.inner_text("#layers-grid")


@shown("Layers", LAYERS_READY, 1280, 420)
def test_a_split_is_measured_and_downloaded(screen, server):
    page = screen.page
    screen.choose("#layers-whole", SPLIT)
    screen.fill("#layers-limit", "3")
    page.click("#layers-measure")
    screen.wait_for_text("#layers-said", "last layer")
    for plot in ("#layers-IoU", "#layers-loss", "#layers-probability"):
        page.wait_for_selector(f"{plot} .vega-embed :is(canvas, svg)")
    with page.expect_download() as download:
        page.click("#layers-csv")
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert list(rows[0]) == ["layer", "IoU", "loss", "probability"]
    assert len(rows) == server.context.model.get().model.config.num_layers


@shown("Layers", LAYERS_READY)
def test_a_measurement_can_be_stopped_and_a_wrong_split_is_a_sentence(screen, server):
    page, answers = screen.page, server.context.answers
    free = threading.Event()
    other = threading.Thread(target=lambda: list(answers.run("another visitor", lambda _: free.wait(90))))
    other.start()
    page.click("#layers-measure")
    with page.expect_response(lambda response: response.request.method == "POST"):
        page.click("#layers-stop:not([disabled])")
    free.set()
    screen.wait_for_text("#layers-said", "Stopped.")
    other.join()
    screen.fill("#layers-whole", "../../etc/passwd|x|<b>y</b>")
    page.click("#layers-measure:not([disabled])")
    page.wait_for_selector("#layers-said .problem >> text=etc/passwd")
    assert page.locator("#layers-said b").count() == 0


@shown("Runs", "#runs-list td", 1280, 420)
def test_runs_are_listed_with_their_scores_and_curves(screen, folders):
    page = screen.page
    row = page.locator("#runs-list tr", has_text="first").inner_text()
    assert "29" in row and "51.0" in row and "ReasonSeg|val" in row
    assert "<b>second</b>" in page.inner_text("#runs-list")
    assert "25.0" in page.inner_text("#runs-scores")
    page.wait_for_selector("#runs-plot .vega-embed :is(canvas, svg)")
    screen.choose("#runs-chosen", "<b>second</b>")
    screen.choose("#runs-curve", "train/lr")
    assert f"--logdir {folders / 'runs'} --host 127.0.0.1" in page.inner_text("#runs-tensorboard").replace("\n", " ")

    name = f"third_{page.viewport_size['width']}"
    write_run(folders / "runs" / name, [{"step": 3, "train/loss": 1.0}], changed=500)
    page.click("#runs-refresh")
    screen.wait_for_text("#runs-list", name)


def test_a_system_with_one_layer_says_so_before_anyone_asks(browser):
    with running(tiny_session(system="LISA"), tab="layers") as server:
        screen = Screen(browser, server.url, 1280, "#layers-grid >> text=LISA always uses the last layer")
        for button in ("#layers-show", "#layers-measure"):
            assert screen.page.locator(button).is_disabled()
        screen.leave()


def test_read_shows_its_points_in_the_layers_tab_alone(browser):
    with running(tiny_session(system="READ"), tab="layers") as server:
        screen = Screen(browser, server.url, 420, LAYERS_READY)
        assert screen.page.get_by_role("tab").count() == 0
        screen.page.locator("#layers-examples button").first.click()
        screen.page.wait_for_selector("#layers-picture img")
        screen.page.click("#layers-show")
        screen.wait_for_text("#layers-grid figcaption", "points inside (green)")
        assert not screen.cut_off()
        screen.leave()
