"""What the Data tab shows: samples drawn one at a time, the same for everyone, and every problem as a sentence."""

import re

import pytest

from dashboard.samples import Draw, Inspection, SampleBrowser, parse_rates, view
from groundscore.errors import UserError
from miniature import data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard") / "miniature"
    data.write(folder, seed=5, scale=0.05, sets=["refcoco", "grefcoco", "reason_seg"])
    return folder


@pytest.fixture
def browser(root):
    return SampleBrowser(root)


def draw(*sets, **changes):
    return Draw(**({"sets": sets, "rates": (), "count": 20, "per_sample": 3, "seed": 1} | changes))


def test_inspection_tells_which_sets_can_be_drawn(root):
    inspection = Inspection(root)
    inspection.start()
    inspection.start()
    inspection._thread.join()
    assert inspection.finished and inspection.problem is None
    assert inspection.trainable_sets() == ["refer_seg/refcoco", "refer_seg/grefcoco", "reason_seg/ReasonSeg|train"]
    assert {report.state for report in inspection.reports} == {"present", "missing"}


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    inspection = Inspection(tmp_path / "nowhere")
    inspection.start()
    inspection._thread.join()
    assert "There is no folder" in inspection.problem


def test_a_draw_is_the_same_for_every_visitor(root, browser):
    chosen = draw("refer_seg/refcoco", "reason_seg/ReasonSeg|train")
    first, again = browser.sample(chosen, 7), SampleBrowser(root).sample(chosen, 7)
    assert first.image_path == again.image_path and first.conversations == again.conversations


def test_rates_decide_what_is_drawn(browser):
    sets = ("refer_seg/refcoco", "reason_seg/ReasonSeg|train")
    chosen = draw(*sets, rates=parse_rates("refer_seg 0, reason_seg 2"))
    assert {browser.sample(chosen, index).family for index in range(10)} == {"reason_seg"}


def test_every_target_has_its_colour_in_picture_and_words(root, browser):
    chosen = draw("refer_seg/refcoco", count=5)
    sample = browser.sample(chosen, 0)
    shown = view(sample, root, 0.5)
    badges = re.findall(r"\[SEG (\d+)\]", shown.conversations)
    assert badges == [str(number + 1) for number in range(len(sample.masks))]
    assert [caption.rpartition("]")[0] + "]" for _, caption in shown.targets] == [f"[SEG {badge}]" for badge in badges]
    assert shown.overlay.shape == shown.image.shape
    assert max(shown.image.shape) > max(sample.image.shape)
    assert sample.image_path.relative_to(root).as_posix() in shown.fields


def test_search_goes_round_and_ends(browser):
    chosen = draw("refer_seg/refcoco")
    name = browser.sample(chosen, 3).image_path.name
    found = [index for index, done in browser.find(chosen, name.upper(), 4) if done]
    assert browser.sample(chosen, found[0]).image_path.name == name
    with pytest.raises(UserError, match="None of the 20"):
        list(browser.find(chosen, "no such name", 0))
    with pytest.raises(UserError, match="part of a file name"):
        list(browser.find(chosen, "  ", 0))


@pytest.mark.parametrize("text", ["refer_seg", "refer_seg -1", "3", "refer_seg x"])
def test_rates_that_cannot_be_read_say_so(text):
    with pytest.raises(UserError, match="Rates have the form"):
        parse_rates(text)


def test_rates_of_a_family_that_is_not_chosen_say_so(browser):
    with pytest.raises(UserError, match="rate is given for 'vqa'"):
        browser.sample(draw("refer_seg/refcoco", rates=parse_rates("vqa 1")), 0)


def test_no_set_is_a_sentence(browser):
    with pytest.raises(UserError, match="at least one data set"):
        browser.sample(draw(), 0)
