"""What the Layers tab shows of a question and of a split, on a small model."""

import csv
import re

import numpy as np
import pytest
from PIL import Image

from dashboard.layer_views import Question, measure_split, open_item, question_of, read_question, show_layers
from groundscore.errors import UserError
from inference.limits import Limits
from miniature import data
from tests.tiny import box_mask, picture, tiny_model


def question(**changes):
    fields = {"image": picture(1, 40, 60), "prompt": "What is the tree?", "answer": "It is [SEG].", "truth": None}
    return Question(**(fields | changes))


@pytest.mark.parametrize("answer", ["It is [SEG].", "Sure, house is [SEG] and tree is [SEG]."])
def test_every_layer_has_a_card_for_every_target(answer):
    model, processor = tiny_model("UGround")
    page = show_layers(model.eval(), processor, question(answer=answer))
    cards = re.findall(r"layer (\d+) · p (\d\.\d+)</figcaption>", page)
    targets = answer.count("[SEG]")
    assert [int(layer) for layer, _ in cards] == list(range(model.config.num_layers)) * targets
    assert sum(float(chance) for _, chance in cards) == pytest.approx(targets, abs=0.03 * targets)
    assert page.count("layer chosen") == targets
    assert page.count("data:image/jpeg") == 2 * len(cards)


def test_iou_is_shown_where_there_is_a_truth():
    model, processor = tiny_model("UGround")
    shown = question(truth=box_mask(40, 60, (5, 5, 20, 30))[None])
    assert len(re.findall(r"IoU \d+\.\d\b", show_layers(model.eval(), processor, shown))) == model.config.num_layers


def test_read_shows_its_points():
    model, processor = tiny_model("READ")
    truth = box_mask(40, 60, (5, 5, 20, 30))[None]
    page = show_layers(model.eval(), processor, question(truth=truth))
    assert len(re.findall(r"IoU \d+\.\d\b", page)) == 1
    inside, outside = map(int, re.search(r"(\d+) points inside \(green\), (\d+) outside", page).groups())
    assert inside >= 1 and outside >= 1


def test_systems_without_layers_say_so():
    model, processor = tiny_model("LISA")
    with pytest.raises(UserError, match="always uses the last layer"):
        show_layers(model.eval(), processor, question())


def test_what_a_visitor_gives_is_checked(tmp_path):
    Image.fromarray(picture(1, 40, 60)).save(tmp_path / "picture.png")
    Image.fromarray(box_mask(40, 60, (5, 5, 20, 30)) * 255).save(tmp_path / "truth.png")
    Image.fromarray(box_mask(10, 10, (0, 0, 5, 5)) * 255).save(tmp_path / "small.png")

    def read(answer="", truth=None):
        return read_question(str(tmp_path / "picture.png"), truth and str(tmp_path / truth), "Where?", answer, Limits())

    assert read().answer == "It is [SEG]."
    assert np.array_equal(read(truth="truth.png").truth[0], box_mask(40, 60, (5, 5, 20, 30)))
    for problem, arguments in {
        "from 1 to 4": {"answer": "nothing"},
        "The ground truth has 10": {"truth": "small.png"},
        "answer with one": {"answer": "[SEG] and [SEG]", "truth": "truth.png"},
    }.items():
        with pytest.raises(UserError, match=problem):
            read(**arguments)


def test_a_split_is_measured_layer_by_layer(tmp_path):
    root = tmp_path / "miniature"
    data.write(root, seed=5, scale=0.05, sets=["grefcoco"])
    model, processor = tiny_model("UGround")
    seen = []
    table = measure_split(
        model.eval(), processor, "grefcoco|unc|val", root, limit=3, progress=lambda *pair: seen.append(pair)
    )
    assert seen[-1] == (3, 3)
    assert len(table.iou) == model.config.num_layers
    assert min(table.iou) <= table.greedy <= table.oracle
    assert max(table.iou) <= table.oracle and sum(table.probability) == pytest.approx(1)
    rows = list(csv.DictReader(table.write_csv(tmp_path / "layers.csv").open()))
    assert [float(row["IoU"]) for row in rows] == table.iou
    assert [float(row["loss"]) for row in rows] == table.loss and min(table.loss) > 0

    item = open_item("grefcoco|unc|val", 0, root)
    first = next(index for index, there in enumerate(item.exists) if there)
    assert question_of(item, first).truth.any()
    with pytest.raises(UserError, match="not in the image"):
        question_of(item, item.exists.index(False))
    with pytest.raises(UserError, match="are numbered 0 to"):
        open_item("grefcoco|unc|val", 99, root)
