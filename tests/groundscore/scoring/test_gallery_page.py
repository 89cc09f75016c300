"""The gallery in a real browser: filters, zoom, a phone, light and dark, and what axe says."""

import numpy as np
import pytest

from groundscore.scoring.gallery import Section, write_gallery
from groundscore.scoring.masks import encode_mask
from groundscore.splits import EvaluationItem
from tests.axe import complaints
from tests.dashboard.conftest import browser  # noqa: F401
from tests.groundscore.scoring.rows import row

TWO = {"annotation_ids": [[1, 2]], "exists": [True]}
FACTS = {"checkpoint": "runs/quickstart/hf", "protocol": "answer given, layer checkpoint", "command": "eval.py " * 40}


def split(kind, dataset, count, **options):
    """`count` images with one expression and a square each; every third target is missing where `kind` allows it."""
    items, rows, masks = [], [], []
    for number in range(count):
        mask = np.zeros((1, 120, 200), np.uint8)
        there = number % 3 > 0 or "absent" not in kind
        mask[0, 20 : 100 * there, 30:140] = 1
        image = np.full((120, 200, 3), (30 * number % 200, 120, 160), np.uint8)
        text = f"{dataset} {number} " + "long" * 30
        own = {"exists": [there]} | (options if there else {})
        items.append(
            EvaluationItem(f"/d/{number}.jpg", image, [text], kind, mask, None, dataset=dataset, split="val", **own)
        )
        target = int(mask.sum())
        rows.append(row(target // (number + 1), target, target, item=number, answer="It is [SEG]." * 9, exists=there))
        masks.append([encode_mask(mask[0])])
    title = f"{dataset}|val · given"
    return Section(
        title, items, rows, masks, "Not the whole split.", {"gIoU": "68.2 (60.1–75.0)", "images": str(count)}
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery") / "g.html"
    sections = [split("reasoning", "ReasonSeg", 7, **TWO), split("referring or absent", "fprefcoco", 7)]
    write_gallery(path, "Gallery of ReasonSeg|val, fprefcoco|val", sections, facts=FACTS, cases=2)
    return path.as_uri()


@pytest.fixture
def page(browser, address):  # noqa: F811
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    yield page
    page.close()


def seen(page, selector):
    return [one for one in page.locator(selector).all() if one.is_visible()]


def test_a_filter_leaves_the_cases_of_its_kind_of_query(page):
    everything = len(seen(page, ".case"))
    assert everything == 12

    page.get_by_label("implicit").check()
    assert {one.get_attribute("class") for one in seen(page, ".case")} == {"case implicit positive multi"}

    page.get_by_role("group", name="Target is said").get_by_label("all").check()
    page.get_by_label("correction").check()
    assert {one.get_attribute("class") for one in seen(page, ".case")} == {"case explicit correction"}
    assert not seen(page, "#s0 h3"), "a choice without such a case has no heading"

    page.get_by_role("group", name="Targets").get_by_label("all").check()
    page.get_by_label("worst").check()
    assert [one.inner_text() for one in seen(page, "h3")] == ["Worst", "Worst"]


def test_an_image_is_enlarged_and_exchanged_for_the_truth_beside_it(page):
    small = page.locator("figure img").first.bounding_box()["width"]

    page.locator("figure a").first.click()
    (image,) = seen(page, "article >> nth=0 >> img")
    assert image.bounding_box()["width"] > 3 * small
    assert image.get_attribute("alt") == "image"
    assert page.locator(".zoomed >> nth=0").is_visible() and page.locator(".asked").first.is_visible()

    page.locator(".zoomed >> nth=0").get_by_text("truth").click()
    (image,) = seen(page, "article >> nth=0 >> img")
    assert image.get_attribute("alt") == "truth"

    page.locator(".zoomed >> nth=0").get_by_text("close").click()
    assert page.locator("figure img").first.bounding_box()["width"] == small


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_window_and_axe_has_nothing_to_report(page, width, colours):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=colours)

    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert complaints(page) == []
    page.locator("figure a").nth(2).click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert complaints(page) == []
