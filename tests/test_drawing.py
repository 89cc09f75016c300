"""Images: overlays, heat maps, the contact sheet."""

import numpy as np
import pytest

from groundscore.colours import choose_colours
from groundscore.drawing import heat_map, label_points, overlay, split_targets
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
    for mask, colour in zip(masks, choose_colours(image, masks), strict=True):
        assert (drawn[mask] == np.rint((100 + np.array(colour)) / 2)).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_outlines_have_a_light_and_a_dark_line_on_any_image(level, masks):
    drawn = overlay(np.full((40, 60, 3), level, np.uint8), masks)
    for row in (5, 20 - 1):
        near = drawn[row - 2 : row + 3, 8:16].max(axis=2)
        assert (near.max(axis=0) > 200).all() and (near.min(axis=0) < 60).all()


def test_where_masks_overlap_the_colours_of_all_are_seen(image):
    masks = np.zeros((3, 40, 60), bool)
    masks[0, 5:30, 5:40] = masks[1, 10:35, 10:50] = masks[2, 15:38, 15:55] = True
    colours = choose_colours(image, masks)

    drawn = overlay(image, masks, colours, contour=0)

    mixed = [np.rint((100 + np.array(colour)) / 2) for colour in colours]
    both, everywhere = masks[0] & masks[1] & ~masks[2], masks.all(0)
    for pixels, inside in ((drawn[both], mixed[:2]), (drawn[everywhere], mixed)):
        shares = [(pixels == colour).all(axis=1).mean() for colour in inside]
        assert sum(shares) == pytest.approx(1) and min(shares) > 0.7 / len(inside)


def test_numbers_stand_inside_their_masks_and_apart():
    ring = np.zeros((90, 120), bool)
    ring[10:80, 10:80] = True
    ring[20:70, 20:70] = False
    inner, outer, nothing = np.zeros_like(ring), np.ones_like(ring), np.zeros_like(ring)
    inner[30:60, 30:60] = True
    masks = [ring, inner, outer, inner, nothing, ring]

    points = label_points(masks, apart=12)

    assert points[4] is None
    placed = [(point, mask) for point, mask in zip(points, masks) if point is not None]
    assert all(mask[y, x] for (x, y), mask in placed)
    (x, y), others = points[2], [ring, inner]
    assert not any(mask[y, x] for mask in others)  # where nothing else is
    for one, (a, _) in enumerate(placed):
        for b, _ in placed[:one]:
            assert (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 >= 12**2


def test_a_number_is_drawn_in_its_mask():
    image, masks = np.full((90, 120, 3), 100, np.uint8), np.zeros((2, 90, 120), bool)
    masks[0, 20:60, 10:50] = masks[1, :, 119] = True  # the second is narrower than its badge

    changed = overlay(image, masks) != overlay(image, masks, numbers=(1, 12))

    (x, y), (_, other) = label_points(masks)
    assert changed[y - 4 : y + 4, x - 4 : x + 4].any() and changed[other, 110:].any()
    small, parts = image[:40, :60], masks[:, :40, :60]  # no room for a number
    assert (overlay(small, parts, numbers=(1, 12)) == overlay(small, parts)).all()


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


@pytest.mark.parametrize("where", [(0, 0), (39, 59)])
def test_a_mask_of_one_pixel_is_drawn_and_numbered(image, where):
    mask = np.zeros((40, 60), bool)
    mask[where] = True
    assert label_points([mask]) == [where[::-1]]
    assert (overlay(image, [mask]) != image).any()


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
