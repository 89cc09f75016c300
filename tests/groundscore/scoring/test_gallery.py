"""The gallery: the right cases, everything inside, nothing executed."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from groundscore.scoring.counts import ExpressionCounts, QuestionCounts
from groundscore.scoring.gallery import Section, choose_cases, write_gallery
from groundscore.scoring.masks import encode_mask
from groundscore.splits import EvaluationItem
from tests.groundscore.scoring.rows import question, row

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def item(masks, *, target_masks=None, ignore=None):
    height, width = masks.shape[1:]
    count = len(masks)
    return EvaluationItem(
        image_path="/data/a.jpg",
        image=np.full((height, width, 3), 120, np.uint8),
        expressions=[f"{EVIL} {n}" for n in range(count)],
        kind="referring",
        masks=masks,
        ignore=ignore,
        exists=[True] * count,
        dataset="balls",
        split="val",
        target_masks=target_masks,
    )


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def images_in(page):
    data = [attrs["src"] for tag, attrs in Tags(page).found if tag == "img"]
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,")))))
        for source in data
    ]


def test_best_worst_and_random_cases_are_all_different():
    rows = [row(n, 50, 50, item=n) for n in range(50)]

    chosen = choose_cases(rows, 3, seed=0)

    assert chosen["Best"] == [49, 48, 47]
    assert chosen["Worst"] == [0, 1, 2]
    assert len({index for indices in chosen.values() for index in indices}) == 9
    assert chosen == choose_cases(rows, 3, seed=0)
    assert chosen["Random"] != choose_cases(rows, 3, seed=1)["Random"]


def test_an_empty_target_that_was_rejected_is_no_best_case():
    rows = [row(0, 0, 0, item=0, present=False), row(9, 10, 10, item=1), row(0, 99, 0, item=2), row(0, 5, 5, item=3)]

    chosen = choose_cases(rows, 1, seed=0)

    assert chosen["Best"] == [1]
    assert chosen["Worst"] == [2]  # the most wrong pixels


def test_an_image_comes_once_before_any_comes_twice():
    rows = [row(50 - n, 50, 50, item=n // 5, expression=n % 5) for n in range(20)]

    assert choose_cases(rows, 3, seed=0)["Best"] == [0, 5, 10]


def test_best_and_worst_are_of_every_kind_of_query_and_random_ones_as_often_as_in_the_split():
    rows = [row(50 - n, 50, 50, item=n) for n in range(40)]
    kinds = ["single"] * 30 + ["multi"] * 10

    chosen = choose_cases(rows, 4, seed=0, kinds=kinds)

    assert chosen["Best"] == [0, 1, 30, 31]
    assert chosen["Worst"] == [39, 38, 29, 28]
    assert chosen["Random"] == choose_cases(rows, 4, seed=0)["Random"]


def test_few_rows_are_shared_out():
    rows = [row(n, 50, 50, item=n) for n in range(4)]

    assert {name: len(indices) for name, indices in choose_cases(rows, 6, seed=0).items()} == {
        "Best": 2,
        "Worst": 1,
        "Random": 1,
    }


def test_the_page_shows_image_truth_and_prediction_and_escapes_every_word(tmp_path):
    truth = np.zeros((1, 40, 60), np.uint8)
    truth[0, 5:35, 5:25] = 1
    predicted = np.zeros((40, 60), np.uint8)
    predicted[5:35, 30:55] = 1
    rows = [ExpressionCounts(0, EVIL, 0, None, True, True, 0, 1350, 750, 600, EVIL)]
    section = Section(EVIL, [item(truth)], rows, [[encode_mask(predicted)]], EVIL, {EVIL: EVIL})

    write_gallery(tmp_path / "g.html", EVIL, [section], facts={EVIL: EVIL})

    page = (tmp_path / "g.html").read_text()
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe"}
    assert all(attrs["href"].startswith("#") for tag, attrs in tags if tag == "a")
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    assert page.count("&lt;script&gt;") == 11  # title twice, fact and score with names, section, note, …
    assert "default-src 'none'" in page
    assert "IoU 0.0<" in page
    plain, shown_truth, prediction = (drawn.astype(int) for drawn in images_in(page))
    assert np.ptp(plain) < 8
    assert np.ptp(shown_truth[20, 15]) > 30  # coloured on the target
    assert abs(shown_truth[20, 42] - shown_truth[20, 42, 0]).max() < 20
    assert np.ptp(prediction[20, 42]) > 30
    assert abs(prediction[20, 15] - prediction[20, 15, 0]).max() < 20


def test_a_rejected_mask_is_not_drawn(tmp_path):
    truth = np.zeros((1, 40, 60), np.uint8)
    rows = [row(0, 2400, 0, present=False)]
    section = Section("s", [item(truth)], rows, [[encode_mask(np.ones((40, 60)))]])

    write_gallery(tmp_path / "g.html", "t", [section])

    page = (tmp_path / "g.html").read_text()
    assert "truth: nothing" in page
    assert "prediction: nothing" in page
    assert all(np.ptp(drawn) < 8 for drawn in images_in(page))


def test_questions_of_muse_show_every_mask(tmp_path):
    targets = np.zeros((2, 40, 60), np.uint8)
    targets[0, 5:15, 5:15] = targets[1, 25:35, 40:50] = 1
    muse = item(targets.any(0)[None].astype(np.uint8), target_masks=[targets])
    rows = [QuestionCounts(0, "a.jpg", [[100, 0]], [100], [100, 100])]
    section = Section("MultiReasonSeg|val", [muse], rows, [[encode_mask(targets[0])]])

    write_gallery(tmp_path / "g.html", "t", [section])

    page = (tmp_path / "g.html").read_text()
    assert "IoU 50.0" in page
    _, truth, prediction = (drawn.astype(int) for drawn in images_in(page))
    assert truth[10, 10, 0] > truth[10, 10, 2]  # the first colour is red, the second blue
    assert truth[30, 45, 2] > truth[30, 45, 0]
    assert prediction[30, 45].max() - prediction[30, 45].min() < 20


def test_large_images_are_shrunk(tmp_path):
    masks = np.ones((1, 900, 1200), np.uint8)
    section = Section("s", [item(masks)], [row(5, 5, 5)], [[encode_mask(masks[0])]])

    write_gallery(tmp_path / "g.html", "t", [section])

    assert {drawn.shape for drawn in images_in((tmp_path / "g.html").read_text())} == {(480, 640, 3)}
    assert re.fullmatch(r"g\.html", *[path.name for path in tmp_path.iterdir()])


def test_a_question_without_any_target_scores_one(tmp_path):
    masks = np.zeros((1, 8, 8), np.uint8)
    muse = item(masks, target_masks=[masks[:0]])

    write_gallery(tmp_path / "g.html", "t", [Section("MultiReasonSeg|val", [muse], [question([], [], [])], [[]])])

    assert "IoU 100.0" in (tmp_path / "g.html").read_text()
