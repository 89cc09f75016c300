"""What the Ground tab does, without a page: views, layers, history, files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from dashboard import markup
from dashboard.context import Context
from dashboard.examples import IMAGES
from dashboard.exchanges import Visitor, thumbnail
from dashboard.ground import ONE_LAYER, POLICY, _layer_widgets, _wish
from dashboard.grounding import UNEXPECTED, Grounding
from groundscore.errors import UserError
from inference.background import BackgroundModel
from inference.limits import Limits
from tests.dashboard.visits import tiny_session


@pytest.fixture
def session():
    return tiny_session()


@pytest.fixture
def tab(tmp_path, session):
    model = BackgroundModel(lambda tell: session, "tiny").start()
    model.wait(10)
    folder = tmp_path / "served"
    folder.mkdir()
    return Grounding(Context(folder, Limits(history=3), model))


@pytest.fixture
def person(tab):
    return Visitor.arrive(tab.context.folder)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(path)
    return str(path)


def ask(tab, person, photo, prompt="Where is the ball?", **options):
    return list(tab.ask("tab 1", person, photo, prompt, **options))


def test_the_answer_streams_and_ends_with_every_target(tab, person, photo):
    *growing, last = ask(tab, person, photo)

    assert len(growing) > 5 and all(view.overlay is None for view in growing)
    for number in range(2):
        badge = markup.badge(number, person.at(-1).colours)
        assert badge in last.answer and badge in last.targets
    assert last.targets.count("<img") == 4  # a mask and a similarity map each
    with zipfile.ZipFile(last.masks) as archive:
        assert archive.namelist() == ["mask_1.png", "mask_2.png"]
        mask = np.asarray(Image.open(archive.open("mask_1.png")))
    record = json.loads(last.record.read_text())
    decoded = run_lengths.decode(record["targets"][0]["segmentation"])
    assert mask.dtype == np.uint8 and ((mask == 255) == decoded.astype(bool)).all()
    assert record["targets"][1]["colour"] == list(person.at(-1).colours[1])
    assert record["size"] == [30, 44]


def test_what_is_kept_of_an_answer_is_what_the_model_gave(tab, person, photo, session):
    ask(tab, person, photo, layer=2)
    exchange = person.at(-1)
    reply = session.ask(exchange.image(), (), "Where is the ball?", on_text=lambda piece: None, layer=2)
    assert (exchange.masks() == reply.masks).all()
    assert [target.layer for target in exchange.targets] == reply.layers == [2, 2]
    assert np.abs(exchange.targets[0].map / 255 - reply.maps[0]).max() < 0.01


def test_another_opacity_needs_no_model(tab, person, photo):
    Image.open(photo).resize((440, 300)).save(photo)
    last = ask(tab, person, photo, opacity=0.0)[-1]
    tab.context.model = None
    strong = tab.recompose(person, -1, 1.0)
    assert strong != last.overlay
    faint, full = (np.asarray(Image.open(path)).astype(int) for path in (last.overlay, strong))
    inside = person.at(-1).masks().any(0)
    assert np.abs(full - faint)[inside].sum() > np.abs(full - faint)[~inside].sum()


def test_where_nothing_is_shown_nothing_is_redrawn(tab, person, photo):
    for _ in range(2):
        ask(tab, person, photo)
    for index in (None, 7, -5):
        assert tab.recompose(person, index, 0.5) is None
        assert tab.show(person, index, 0.5) is None
        assert tab.look_again("tab 1", person, index, 0, 0.5) is None


def test_looking_again_replaces_the_masks_and_keeps_the_words(tab, person, photo):
    first = ask(tab, person, photo, layer="greedy")[-1]
    text = person.at(-1).text

    again = tab.look_again("tab 1", person, -1, 0, 0.5)

    assert "similarity at layer 0" in again.targets
    assert person.at(-1).text == text and len(person.exchanges) == 1
    assert again.overlay != first.overlay
    assert tab.look_again("tab 1", person, -1, 0, 0.5) is None  # nothing new
    assert "outside 0..3" in tab.look_again("tab 1", person, -1, 9, 0.5).answer


def test_a_follow_up_question_shows_the_model_what_came_before(tab, person, photo, tmp_path):
    ask(tab, person, photo, "first")
    ask(tab, person, photo, "second", follow_up=True)
    ask(tab, person, photo, "third")
    assert [len(exchange.earlier) for exchange in person.exchanges] == [0, 1, 0]
    other = tmp_path / "other.png"
    Image.new("RGB", (44, 30)).save(other)
    ask(tab, person, str(other), "fourth", follow_up=True)
    assert person.at(-1).earlier == ()


def test_a_history_has_a_length_and_its_files_go_with_it(tab, person, photo):
    for number in range(5):
        ask(tab, person, photo, f"question {number}")
    assert [exchange.prompt for exchange in person.exchanges] == ["question 2", "question 3", "question 4"]
    assert sorted(path.name for path in person.folder.iterdir()) == ["0003", "0004", "0005"]

    person.forget()
    assert list(person.folder.iterdir()) == [] and person.at(-1) is None
    person.leave()
    assert not person.folder.exists()


def test_uploads_go_with_the_history_and_examples_stay(tab, person, photo):
    cache = tab.context.folder / "0123456789"
    cache.mkdir()
    example = next(IMAGES.glob("*.jpg"), None) or next(IMAGES.iterdir())
    upload, served = cache / "mine.png", cache / example.name
    upload.write_bytes(Path(photo).read_bytes())
    served.write_bytes(example.read_bytes())
    for picture in (upload, served, Path(photo)):
        ask(tab, person, str(picture))
    person.forget()
    assert not upload.exists() and served.exists() and Path(photo).exists()


def test_a_thumbnail_is_drawn_once(tab, person, photo):
    ask(tab, person, photo)
    first = thumbnail(person.at(-1))
    assert thumbnail(person.at(-1)) == first
    tab.look_again("tab 1", person, -1, 1, 0.5)
    assert thumbnail(person.at(-1)) != first


def test_recomposing_leaves_no_pile_of_files(tab, person, photo):
    ask(tab, person, photo)
    for number in range(20):
        tab.recompose(person, -1, number / 20)
    assert len(list(person.folder.rglob("overlay.png"))) <= 2


def test_what_only_a_developer_understands_is_not_shown(tab, person, photo, session, caplog):
    session.ask = lambda *_, **__: 1 / 0
    (*_, last) = ask(tab, person, photo)
    assert markup.escape(UNEXPECTED) in last.answer
    assert "ZeroDivisionError" in caplog.text and "ZeroDivisionError" not in last.answer


def test_nothing_found_is_said(tmp_path, photo):
    model = BackgroundModel(lambda tell: tiny_session("It is not there."), "tiny").start()
    model.wait(10)
    tab = Grounding(Context(tmp_path, Limits(), model))
    last = ask(tab, Visitor.arrive(tmp_path), photo)[-1]
    assert "Nothing was segmented" in last.answer and last.masks is None and last.targets == ""
    assert last.overlay.exists()


def test_a_system_without_a_policy_has_no_layer_to_choose(tmp_path, photo):
    model = BackgroundModel(lambda tell: tiny_session(system="LISA"), "tiny").start()
    model.wait(10)
    tab = Grounding(Context(tmp_path, Limits(), model))
    assert not tab.layer_options().policy
    assert tab.layer("greedy") is None and tab.layer(1) is None
    last = ask(tab, Visitor.arrive(tmp_path), photo)[-1]
    assert last.targets.count("<img") == 2  # masks; LISA has no similarity map


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
    model = BackgroundModel(lambda tell: session, "tiny").start()
    model.wait(10)
    tab = Grounding(Context(tmp_path, Limits(), model))
    _, rules, layers = _layer_widgets(tab)
    assert (rules["value"], layers["value"], layers["visible"]) == (rule, index, rule == ONE_LAYER)
    assert rules["value"] in rules["choices"]
    assert _wish(rule, index) == asked
    person = Visitor.arrive(tmp_path)
    ask(tab, person, photo, layer=tab.layer(asked))
    if isinstance(started, int):
        assert {target.layer for target in person.at(-1).targets} == {started}


def test_a_policy_that_was_not_trained_is_not_offered(tmp_path):
    session = tiny_session()
    session.model.config.mode = 1
    model = BackgroundModel(lambda tell: session, "tiny").start()
    model.wait(10)
    _, rules, layers = _layer_widgets(Grounding(Context(tmp_path, Limits(), model)))
    assert rules["choices"] == [ONE_LAYER] == [rules["value"]] and layers["visible"]


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_model_on_its_way_says_so(tmp_path, photo):
    model = BackgroundModel(lambda tell: None, "big")
    tab = Grounding(Context(tmp_path, Limits(), model))
    (view,) = ask(tab, Visitor.arrive(tmp_path), photo)
    assert "still being loaded (starting)" in view.answer


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
