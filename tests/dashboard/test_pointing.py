"""Clicks and boxes on the image: what they correct, what they ask, and what is not obeyed."""

import json

import numpy as np
import pytest
from PIL import Image

from dashboard.context import Context
from dashboard.conversation import conversation
from dashboard.grounding import Grounding
from dashboard.pointing import TOOLS, Gesture, point
from dashboard.viewer import viewer_value
from dashboard.visit import Visit
from inference.background import BackgroundModel
from inference.corrections import correct_mask, segment_at
from inference.limits import Limits
from inference.spots import Point, Spots
from tests.dashboard.visits import tiny_session

SIZE = (30, 44)


@pytest.fixture(scope="module")
def session():
    return tiny_session()


@pytest.fixture
def tab(tmp_path, session):
    model = BackgroundModel(lambda tell: session, "tiny").start()
    model.wait(10)
    return Grounding(Context(tmp_path, Limits(), model))


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def visit(tab, photo):
    """In which a question was answered by two masks."""
    visit = Visit.begin(tab.context.folder)
    assert list(tab.ask("tab 1", visit, photo, "Where is the ball?"))[-1]
    return visit


def gesture(tool: str, token=1, target=None, start=(0.25, 0.5), end=(0.75, 0.9)) -> Gesture | None:
    return Gesture.read({"tool": tool, "token": token, "target": target, "from": list(start), "to": list(end)})


def use(tab, visit, photo, *given, **options) -> list[bool]:
    return list(point(tab, "tab 1", visit, photo, gesture(*given, **options)))


def test_points_and_a_box_add_up_to_what_corrects_a_mask_and_can_be_taken_back(tab, visit, photo, session):
    first = visit.exchange
    for tool in ("add", "remove", "box"):
        assert use(tab, visit, photo, tool, target=2)[-1]

    spots = Spots((Point(33, 27), Point(33, 27, inside=False)), (11, 15, 33, 27))
    assert visit.spots_of(1, 1) == spots
    right = correct_mask(session, first.image(), (), first.reply(), 1, spots)
    assert (visit.exchange.masks() == right.masks).all() and (right.masks[0] == first.masks()[0]).all()
    assert visit.exchange.text == first.text and len(visit.visitor.exchanges) == 1
    assert visit.exchange.targets[0].map is not None

    assert json.loads(viewer_value(visit, TOOLS))["undo"]
    for _ in range(3):
        assert use(tab, visit, photo, "undo") == [True]
    assert visit.exchange is first and use(tab, visit, photo, "undo") == [False]


@pytest.mark.parametrize("tool", ["add", "box"])
def test_without_a_chosen_mask_the_spot_itself_is_asked_about(tab, visit, photo, session, tool):
    assert use(tab, visit, photo, tool)[-1]
    exchange = visit.exchange
    spots = Spots((Point(33, 27),)) if tool == "add" else Spots(box=(11, 15, 33, 27))
    assert (exchange.masks() == segment_at(session, exchange.image(), spots).masks).all()
    assert exchange.number == 2 and str(spots) in exchange.prompt
    assert "layer" not in str(json.loads(viewer_value(visit))["masks"][0]["facts"])
    assert not tab.segment_again("tab 1", visit, 1)  # there is no [SEG] state
    list(tab.ask("tab 1", visit, photo, "And then?", follow_up=True))
    assert [turn.question for turn in visit.exchange.earlier] == ["Where is the ball?"]


def test_a_spot_of_an_image_that_was_not_asked_about_yet(tab, photo):
    visit = Visit.begin(tab.context.folder)
    tab.look_at(visit, photo)
    assert use(tab, visit, photo, "add", token=None)[-1]
    assert visit.exchange.source.name == "photo.png" and len(visit.exchange.targets) == 1
    other = Visit.begin(tab.context.folder)
    use(tab, other, None, "add", token=None)
    assert "choose an image first" in conversation(other)


def test_removing_needs_a_mask_and_what_is_not_shown_any_more_stays(tab, visit, photo):
    before = visit.exchange
    use(tab, visit, photo, "remove")
    assert "Choose the mask first" in conversation(visit)
    assert use(tab, visit, photo, "add", target=3) == use(tab, visit, photo, "add", token=9) == []
    assert visit.exchange is before and len(visit.visitor.exchanges) == 1


def test_an_empty_box_is_answered_by_a_sentence(tab, visit, photo):
    use(tab, visit, photo, "box", start=(0.5, 0.5), end=(0.5, 0.5))
    assert "The box (22, 15) to (22, 15) is empty" in conversation(visit)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"tool": "look"},
        {"tool": ["add"]},
        {"tool": "add", "token": 1},
        {"tool": "add", "token": True, "from": [0, 0], "to": [0, 0]},
        {"tool": "add", "token": 1, "target": 0, "from": [0, 0], "to": [0, 0]},
        {"tool": "add", "token": 1, "from": [0, 0], "to": [0, float("nan")]},
        {"tool": "add", "token": 1, "from": [0, 0], "to": [0, 1.5]},
        {"tool": "box", "token": 1, "from": ["0", 0], "to": [0, 1]},
        {"tool": "undo", "token": "1"},
    ],
)
def test_what_no_page_sends_is_not_read(data):
    assert Gesture.read(data) is None
