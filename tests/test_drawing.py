"""Images: overlays, heat maps, the contact sheet."""

import numpy as np
import pytest

from groundscore.drawing import COLOURS, colour_of, heat_map, overlay, split_targets
from utils.contact_sheet import SheetRow, contact_sheet


@pytest.fixture
def image():
    return np.full((40, 60, 3), 100, np.uint8)


@pytest.fixture
def masks():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:20, 5:20] = True
    masks[1, 25:38, 30:55] = True
    return masks


def test_an_overlay_colours_the_inside_and_leaves_the_outside_alone(image, masks):
    drawn = overlay(image, masks, contour=0, alpha=0.5)

    assert (drawn[~masks.any(0)] == 100).all()
    for number, mask in enumerate(masks):
        assert (drawn[mask] == np.rint((100 + np.array(COLOURS[number])) / 2)).all()


def test_an_overlay_is_outlined_in_white(image, masks):
    drawn = overlay(image, masks)
    assert (drawn[5, 5:20] > 200).all()


def test_an_overlay_without_masks_is_the_image(image):
    assert (overlay(image, np.zeros((0, 40, 60), bool), dim=0.5) == image).all()
    assert (overlay(image, np.zeros((1, 40, 60), bool), dim=0.5) == image).all()


def test_dimming_darkens_what_is_outside(image, masks):
    assert (overlay(image, masks, dim=0.5, contour=0)[~masks.any(0)] < 100).all()


def test_a_mask_of_another_size_is_an_error(image):
    with pytest.raises(ValueError, match="does not fit"):
        overlay(image, np.zeros((1, 40, 61), bool))


def test_a_heat_map_grows_brighter_with_the_similarity(image):
    similarity = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (40, 1))
    brightness = heat_map(image, similarity).sum(-1)[0].astype(int)
    assert (np.diff(brightness[::6]) > 0).all()


def test_answers_are_cut_at_their_targets():
    assert split_targets("A [SEG] and [SEG].") == [
        ("A ", None),
        ("[SEG]", 0),
        (" and ", None),
        ("[SEG]", 1),
        (".", None),
    ]
    assert split_targets("[SEG]") == [("[SEG]", 0)]
    assert split_targets("") == []


def test_colours_repeat_for_many_targets():
    assert colour_of(len(COLOURS)) == colour_of(0)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 90)])
def test_a_sheet_takes_images_of_any_shape_and_long_texts(shape):
    image = np.zeros((*shape, 3), np.uint8)
    masks = np.zeros((1, *shape), bool)
    similarity = np.zeros(shape, np.float32)
    rows = [
        SheetRow(image, masks, "where is it? " * 40, "x" * 500 + " [SEG].", masks[0], similarity=similarity, layer=2),
        SheetRow(image, masks[:0], "", "", iou=0.5),
    ]

    sheet = np.asarray(contact_sheet(rows, cell=64, text_width=240))

    assert sheet.shape[0] > 300
    assert (sheet[:, -3:] == 255).all() and (sheet[-3:] == 255).all()


def test_a_sheet_has_no_column_for_what_no_row_has():
    image = np.zeros((40, 60, 3), np.uint8)
    masks = np.zeros((1, 40, 60), bool)
    narrow = contact_sheet([SheetRow(image, masks, "q", "[SEG]")], cell=64)
    wide = contact_sheet([SheetRow(image, masks, "q", "[SEG]", truth=masks[0])], cell=64)
    assert narrow.width < wide.width
