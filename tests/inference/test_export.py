"""Answers in the forms of other tools: beside the record of chat.py, and in a ZIP of the dashboard."""

import json

import numpy as np
import pytest
from PIL import Image

from groundscore.errors import UserError
from groundscore.exchange.tools import export_forms, read_regions
from inference.reply import Reply, save_reply

HEIGHT, WIDTH = 30, 40


@pytest.fixture
def reply():
    """Two targets, of which one was not found."""
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 5:20, 8:30] = True
    masks[0, 10:12, 12:14] = False
    return Reply("Where is the kite?", "[SEG] and [SEG].", masks, [0.9, 0.1], [1, 1], None, 5, True, 0.1)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (WIDTH, HEIGHT), "teal").save(path)
    return path


def test_an_answer_is_saved_in_every_form_that_is_named(reply, photo, tmp_path):
    forms = export_forms("coco_results, labelme,yolo,png,svg,geojson")

    saved = save_reply(reply, np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / "out", photo, forms)

    (entry,) = json.loads((tmp_path / "out/photo_1_coco_results/results.json").read_text())
    assert (entry["text"], entry["score"]) == ("Where is the kite?", 0.9)
    for form in ("labelme", "yolo", "png"):
        (image,) = read_regions(tmp_path / f"out/photo_1_{form}")
        assert np.array_equal(image.regions[0].pixels, reply.masks[0])
    assert (tmp_path / "out/photo_1_svg/photo.svg").exists()
    assert (tmp_path / "out/photo_1_geojson/photo.geojson").exists()
    assert saved.record.name == "photo_1.json"


def test_an_unknown_form_is_told_before_the_model_is_loaded():
    with pytest.raises(UserError, match="unknown form of masks 'cocoresults'.*Did you mean 'coco_results'"):
        export_forms("cocoresults")
