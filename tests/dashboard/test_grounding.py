"""What the Ground tab does, without a page: asking, layers, the conversation, files; and the state of a visit."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from dashboard import markup
from dashboard.context import Context
from dashboard.conversation import conversation
from dashboard.examples import EXAMPLES
from dashboard.exchanges import draw_targets, pack, thumbnail
from dashboard.ground import ONE_LAYER, POLICY, _layer_widgets, _wish
from dashboard.grounding import UNEXPECTED, Grounding
from dashboard.viewer import viewer_value
from dashboard.visit import Visit
from groundscore.errors import UserError
from groundscore.scoring import percent
from inference.background import BackgroundModel
from inference.limits import Limits
from tests.dashboard.visits import tiny_session
from tests.tiny import picture


@pytest.fixture
def session():
    return tiny_session()


def loaded(session) -> BackgroundModel:
    model = BackgroundModel(lambda tell: session, "tiny").start()
    model.wait(10)
    return model


@pytest.fixture
def tab(tmp_path, session):
    folder = tmp_path / "served"
    folder.mkdir()
    return Grounding(Context(folder, Limits(history=3), loaded(session)))


@pytest.fixture
def visit(tab):
    return Visit.begin(tab.context.folder)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(path)
    return str(path)


def ask(tab, visit, photo, prompt="Where is the ball?", **options):
    """The conversation after every step."""
    return [conversation(visit) for _ in tab.ask("tab 1", visit, photo, prompt, **options)]


def test_the_answer_streams_and_ends_with_every_target(tab, visit, photo):
    *growing, last = ask(tab, visit, photo)

    assert len(growing) > 5 and all("running" in each and "shown" not in each for each in growing)
    exchange = visit.exchange
    assert all(markup.badge(number, exchange.colours) in last for number in range(2))
    assert [mask["number"] for mask in json.loads(viewer_value(visit))["masks"]] == [1, 2]
    assert markup.targets(draw_targets(exchange)).count("<img") == 4  # a mask and a similarity map each


def test_what_is_downloaded_has_the_name_of_the_image_and_its_masks(tab, visit, photo):
    ask(tab, visit, photo)
    path = pack(visit.exchange)
    assert path.name == "my_photo.zip"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert {"my_photo_overlay.png", "my_photo_rle.json", "my_photo_mask_1.png", "my_photo_mask_2.png"} <= {*names}
        assert {name.split("/")[0] for name in names if "/" in name} >= {"coco_results", "labelme"}
        mask = np.asarray(Image.open(archive.open("my_photo_mask_1.png")))
        record = json.loads(archive.read("my_photo_rle.json"))
    decoded = run_lengths.decode(record["targets"][0]["segmentation"])
    assert mask.dtype == np.uint8 and ((mask == 255) == decoded.astype(bool)).all()
    assert record["targets"][1]["colour"] == list(visit.exchange.colours[1])
    assert record["size"] == [30, 44]


def test_masks_of_a_large_photo_that_exif_turns_have_its_size(tab, visit, tmp_path):
    """4.8 million pixels; what the page shows of them is small."""
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "IMG_7.jpg"
    Image.fromarray(picture(1, 2000, 2400)).save(path, exif=exif)

    ask(tab, visit, str(path))

    assert visit.exchange.masks().shape == (2, 2400, 2000)
    with zipfile.ZipFile(pack(visit.exchange)) as archive:
        sizes = {Image.open(archive.open(name)).size for name in archive.namelist() if name.endswith("png")}
        record = json.loads(archive.read("IMG_7_rle.json"))
        coco = json.loads(archive.read("coco/annotations/instances.json"))
    assert sizes == {(2000, 2400)} and record["size"] == [2400, 2000]
    assert [target["segmentation"]["size"] for target in record["targets"]] == [[2400, 2000]] * 2
    assert [(each["width"], each["height"]) for each in coco["images"]] == [(2000, 2400)]
    shown = [Image.open(one.mask).size for one in draw_targets(visit.exchange)]
    assert max(max(size) for size in shown) <= 800 and visit.preview.height <= 1600


def test_what_is_kept_of_an_answer_is_what_the_model_gave(tab, visit, photo, session):
    ask(tab, visit, photo, layer=2)
    exchange = visit.exchange
    reply = session.ask(exchange.image(), (), "Where is the ball?", on_text=lambda piece: None, layer=2)
    assert (exchange.masks() == reply.masks).all()
    assert [target.layer for target in exchange.targets] == reply.layers == [2, 2]
    assert np.abs(exchange.targets[0].map / 255 - reply.maps[0]).max() < 0.01


def test_the_outlines_of_the_viewer_are_the_masks(tab, visit, photo):
    """Filled by the even-odd rule at the size of the masks."""
    ask(tab, visit, photo)
    value = json.loads(viewer_value(visit))
    assert (value["width"], value["height"]) == (44, 30)
    for mask, target in zip(value["masks"], visit.exchange.targets, strict=True):
        filled = np.zeros((30, 44), bool)
        for ring in mask["path"].removesuffix("Z").split("Z"):
            corners = [tuple(map(float, corner.split())) for corner in ring.removeprefix("M").split("L")]
            rows, columns = np.mgrid[0:30, 0:44] + 0.5
            for (x, y), (_, v) in zip(corners, corners[1:] + corners[:1], strict=True):
                if y != v:  # crossings of a ray to the left
                    filled ^= (min(y, v) < rows) & (rows < max(y, v)) & (x < columns)
        assert (filled == target.mask()).all()
        column, row = mask["at"]
        assert target.mask()[int(row), int(column)]
        assert ["score", percent(target.score), ""] in mask["facts"]


def test_looking_again_replaces_the_masks_and_keeps_the_words(tab, visit, photo):
    ask(tab, visit, photo, layer="greedy")
    text, before = visit.exchange.text, viewer_value(visit)

    assert tab.segment_again("tab 1", visit, 0)

    assert {target.layer for target in visit.exchange.targets} == {0}
    assert visit.exchange.text == text and len(visit.visitor.exchanges) == 1
    assert viewer_value(visit) != before
    assert not tab.segment_again("tab 1", visit, 0)  # nothing new
    assert tab.segment_again("tab 1", visit, 9)
    assert "outside 0..3" in conversation(visit)


def test_a_follow_up_question_shows_the_model_what_came_before(tab, visit, photo, tmp_path):
    ask(tab, visit, photo, "first")
    ask(tab, visit, photo, "second", follow_up=True)
    ask(tab, visit, photo, "third")
    assert [len(exchange.earlier) for exchange in visit.visitor.exchanges] == [0, 1, 0]
    other = tmp_path / "other.png"
    Image.new("RGB", (44, 30)).save(other)
    ask(tab, visit, str(other), "fourth", follow_up=True)
    assert visit.exchange.earlier == ()


def test_a_conversation_has_a_length_and_its_files_go_with_it(tab, visit, photo):
    for number in range(5):
        ask(tab, visit, photo, f"question {number}")
    assert [each.prompt for each in visit.visitor.exchanges] == ["question 2", "question 3", "question 4"]
    assert "question 2" in conversation(visit) and "question 1" not in conversation(visit)
    folders = {path.name for path in visit.visitor.folder.iterdir()}
    assert folders == {"0003", "0004", "0005", "previews"}

    visit.forget()
    assert not list(visit.visitor.folder.glob("0*")) and visit.exchange is None
    visit.leave()
    assert not visit.visitor.folder.exists()


def test_uploads_go_with_the_conversation_and_examples_stay(tab, visit, photo):
    cache = tab.context.folder / "0123456789"
    cache.mkdir()
    example = EXAMPLES[0].image
    upload, served = cache / "mine.png", cache / example.name
    upload.write_bytes(Path(photo).read_bytes())
    served.write_bytes(example.read_bytes())
    for sent in (upload, served, Path(photo)):
        ask(tab, visit, str(sent))
    visit.forget()
    assert not upload.exists() and served.exists() and Path(photo).exists()


def test_a_thumbnail_is_drawn_once(tab, visit, photo):
    ask(tab, visit, photo)
    first = thumbnail(visit.exchange)
    assert thumbnail(visit.exchange) == first
    tab.segment_again("tab 1", visit, 1)
    assert thumbnail(visit.exchange) != first


def test_looking_around_leaves_no_pile_of_files(tab, visit, photo):
    ask(tab, visit, photo)
    for _ in range(20):
        tab.open(visit, 1)
        pack(visit.exchange)
    assert len(list(visit.visitor.folder.rglob("*.zip"))) <= 2 and len(list(visit.visitor.folder.rglob("*.jpg"))) <= 5


def test_what_only_a_developer_understands_is_not_shown(tab, visit, photo, session, caplog):
    session.ask = lambda *_, **__: 1 / 0
    (*_, last) = ask(tab, visit, photo)
    assert markup.escape(UNEXPECTED) in last
    assert "ZeroDivisionError" in caplog.text and "ZeroDivisionError" not in last


# --- one state ------------------------------------------------------------------------------------------------------


def shown(visit) -> tuple[int | None, int, bool]:
    """Number of the turn that is marked, number of masks on the image, whether there is an image."""
    value = json.loads(viewer_value(visit))
    marked = conversation(visit).partition(" shown")[2].partition('data-turn="')[2].partition('"')[0]
    return int(marked) if marked else None, len(value["masks"]), "image" in value


def test_another_image_has_no_masks_and_an_earlier_turn_brings_its_own_back(tab, visit, photo, tmp_path):
    ask(tab, visit, photo)
    assert shown(visit) == (1, 2, True)
    tab.look_at(visit, str(EXAMPLES[0].image))
    assert shown(visit) == (None, 0, True)
    ask(tab, visit, str(EXAMPLES[0].image), "And here?")
    assert shown(visit) == (2, 2, True)
    assert tab.open(visit, 1).source == Path(photo)
    assert shown(visit) == (1, 2, True) and (visit.preview.width, visit.preview.height) == (44, 30)
    visit.clear()
    assert shown(visit) == (None, 0, False) and "And here?" in conversation(visit)
    for number in (None, 7, -1, "1", [1]):
        assert tab.open(visit, number) is None


def test_an_answer_does_not_take_the_page_from_a_visitor_who_has_moved_on(tab, visit, photo):
    steps = tab.ask("tab 1", visit, photo, "first")
    next(steps)
    tab.look_at(visit, str(EXAMPLES[1].image))
    assert not any(steps)  # nothing but the conversation changes
    assert shown(visit) == (None, 0, True) and "first" in conversation(visit)


def test_an_answer_does_not_arrive_after_clear(tab, visit, photo):
    steps = tab.ask("tab 1", visit, photo, "first")
    for _ in range(4):
        next(steps)
    visit.clear()
    for _ in steps:
        assert "first" not in conversation(visit)
    assert not visit.visitor.exchanges


def test_a_stopped_question_stays_until_the_next_one(tab, visit, photo):
    steps = tab.ask("tab 1", visit, photo, "first")
    for _ in range(4):
        next(steps)
    tab.context.answers.stop("tab 1")
    list(steps)
    assert "Stopped." in conversation(visit) and "first" in conversation(visit) and not visit.attempt.running
    ask(tab, visit, photo, "second")
    assert "first" not in conversation(visit)


def test_an_image_that_cannot_be_read_is_reported_when_it_is_chosen(tab, visit, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    tab.look_at(visit, str(tmp_path / "notes.png"))
    assert "not an image" in conversation(visit) and shown(visit) == (None, 0, False)
    tab.look_at(visit, str(EXAMPLES[0].image))
    assert "not an image" not in conversation(visit)


def test_a_visit_begins_with_an_answered_example_unless_something_was_done(tab, visit, photo):
    tab.prepare()
    tab._preparing.join(20)
    assert tab.prepare()
    other = Visit.begin(tab.context.folder)
    ask(tab, other, photo)
    assert not tab.welcome(other) and len(other.visitor.exchanges) == 1
    assert tab.welcome(visit) and not tab.welcome(visit)
    assert visit.exchange.prompt == EXAMPLES[0].question and shown(visit) == (1, 2, True)
    visit.forget()
    assert tab.welcome(Visit.begin(tab.context.folder))  # the files of one visit are its own


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("There is no red kite.", "There is no red kite."),
        ("[REJ].", "Not in this image: Where is the ball?"),
        ("It is there. " * 12, "No mask: the answer names nothing to segment."),
    ],
)
def test_no_is_shown_as_clearly_as_a_mask(tmp_path, photo, answer, said):
    tab = Grounding(Context(tmp_path, Limits(), loaded(tiny_session(answer))))
    visit = Visit.begin(tmp_path)
    (*_, last) = ask(tab, visit, photo)
    assert f'<p class="missing">{markup.escape(said)}</p>' in last
    assert json.loads(viewer_value(visit))["verdict"] == said and last.count("no red kite") <= 1
    with zipfile.ZipFile(pack(visit.exchange)) as archive:
        assert len(archive.namelist()) == 2


def test_a_system_without_a_policy_has_no_layer_to_choose(tmp_path, photo):
    tab = Grounding(Context(tmp_path, Limits(), loaded(tiny_session(system="LISA"))))
    assert not tab.layer_options().policy
    assert tab.layer("greedy") is None and tab.layer(1) is None
    visit = Visit.begin(tmp_path)
    ask(tab, visit, photo)
    assert markup.targets(draw_targets(visit.exchange)).count("<img") == 2  # masks; LISA has no similarity map


@pytest.mark.parametrize(
    ("started", "rule", "index", "asked"),
    [
        (None, POLICY, 3, "greedy"),
        ("greedy", POLICY, 3, "greedy"),
        ("last", ONE_LAYER, 3, 3),
        (1, ONE_LAYER, 1, 1),
        ("mixture", "As started: mixture", 3, None),
    ],
)
def test_the_page_starts_with_the_layer_that_app_py_was_told(tmp_path, photo, started, rule, index, asked):
    session = tiny_session()
    session.layer = started
    tab = Grounding(Context(tmp_path, Limits(), loaded(session)))
    _, rules, layers = _layer_widgets(tab)
    assert (rules["value"], layers["value"], layers["visible"]) == (rule, index, rule == ONE_LAYER)
    assert rules["value"] in rules["choices"]
    assert _wish(rule, index) == asked
    visit = Visit.begin(tmp_path)
    ask(tab, visit, photo, layer=tab.layer(asked))
    if isinstance(started, int):
        assert {target.layer for target in visit.exchange.targets} == {started}


def test_a_policy_that_was_not_trained_is_not_offered(tmp_path):
    session = tiny_session()
    session.model.config.mode = 1
    _, rules, layers = _layer_widgets(Grounding(Context(tmp_path, Limits(), loaded(session))))
    assert rules["choices"] == [ONE_LAYER] == [rules["value"]] and layers["visible"]


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_model_on_its_way_says_so(tmp_path, photo):
    model = BackgroundModel(lambda tell: None, "big")
    tab = Grounding(Context(tmp_path, Limits(), model))
    *_, said = ask(tab, Visit.begin(tmp_path), photo)
    assert "still being loaded (starting)" in said


@pytest.mark.parametrize("error,told", [(UserError("no config.json"), "no config.json"), (KeyError("x"), "KeyError")])
def test_a_model_that_cannot_be_loaded_says_why(error, told):
    def load(tell):
        tell("reading the weights")
        raise error

    model = BackgroundModel(load, "broken").start()
    model.wait(10)
    assert model.stage == "reading the weights" and not model.ready
    with pytest.raises(UserError, match=f"could not be loaded: {told}"):
        model.get()


# --- markup ----------------------------------------------------------------------------------------------------------


def test_markup_shows_every_character_and_obeys_none():
    text = "<b>\"'&${x}{{y}}`\u202e\x1b[SEG]"
    html = markup.answer(text, note="<i>")
    assert "<b>" not in html and "<i>" not in html and "\u202e" not in html and "\x1b" not in html
    assert "${" not in html and "{{" not in html and "`" not in html
    assert markup.badge(0) in html
