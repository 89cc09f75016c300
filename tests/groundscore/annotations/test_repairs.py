"""Geometry that is mended, as the sets' own tools do, and counted; and what cannot be mended."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from groundscore.annotations.bad_entries import BadEntry, note_repair, noting_repairs
from groundscore.annotations.labelme import draw_regions, read_annotation
from groundscore.annotations.segmentations import decode_segmentation

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


def even_odd(polygon: list[float], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [H, W], pixels whose centre a polygon encloses, counting crossings in extended precision; and the distance
    of every centre to the outline."""
    y, x = np.mgrid[:height, :width] + 0.5
    corners = np.array(polygon, np.longdouble).reshape(-1, 2)
    inside, distance = np.zeros((height, width), bool), np.full((height, width), np.inf)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * ((y - y1) / (y2 - y1)) + x1)
        length = np.hypot(x2 - x1, y2 - y1)
        ux, uy = ((x2 - x1) / length, (y2 - y1) / length) if length else (0, 0)
        along = np.clip((x - x1) * ux + (y - y1) * uy, 0, length)
        distance = np.minimum(distance, np.hypot(x - x1 - along * ux, y - y1 - along * uy))
    return inside, distance


@pytest.mark.parametrize("spread", [0.9, 3, 100, 1e4, 1e6, 1e9, 1e12])
def test_a_polygon_is_cropped_to_the_image_however_far_it_reaches(spread):
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width, corners = rng.integers(2, 50, 3)
        points = (rng.random((3 + corners % 6, 2)) - 0.5) * spread * (width, height) + (width / 2, height / 2)
        polygon = points.reshape(-1).tolist()

        mask = decode_segmentation([polygon], height, width, "here: 1")

        truth, distance = even_odd(polygon, height, width)
        assert distance[(mask != 0) != truth].max(initial=0) < 0.5
        if spread < 1:
            (own,) = coco_mask.decode(coco_mask.frPyObjects([polygon], height, width)).transpose(2, 0, 1)
            assert np.array_equal(mask, own)


@pytest.mark.parametrize("size", [1e9, 1e300, 1.7e308])
def test_a_polygon_around_everything_covers_the_image(size):
    assert decode_segmentation([[-size, -size, size, -size, size, size, -size, size]], 30, 40, "here: 1").all()
    assert not decode_segmentation([[size, 0, size, 9, size / 2, 9]], 30, 40, "here: 1").any()


def test_a_polygon_that_fills_memory_is_a_bad_entry():
    zigzag = [value for n in range(3000) for value in (4000 * (n % 2), n % 7)]

    with pytest.raises(BadEntry, match=r"annotation 7: a polygon's outline of \d+ pixels"):
        decode_segmentation([zigzag], 1000, 1000, "instances.json: annotation 7")


@pytest.mark.parametrize(
    "extra",
    [
        [1, 1, 5, 5],
        [1, 1],
        [],
        [1, 2, 3],
        [8, 8, 8, 8, 8, 8],
        [50, 50, 60, 50, 60, 60],
        {"size": [10, 10], "counts": [100]},
    ],
)
def test_a_part_without_pixels_is_dropped_beside_others_and_counted(extra):
    with noting_repairs() as repairs:
        mask = decode_segmentation([extra, SQUARE], 10, 10, "a/b.json: annotation 7, target 2")
    assert mask.sum() == 16
    dropped = [repair.to_dict() for repair in repairs if "dropped" in repair.reason]
    assert [(one["file"], one["id"]) for one in dropped] == [("a/b.json", "annotation 7, target 2")]
    assert "1 of 2 parts dropped" in dropped[0]["reason"]

    with noting_repairs() as repairs:
        alone = decode_segmentation([extra], 10, 10, "a/b.json: annotation 7")
    assert not alone.any()
    assert not [repair for repair in repairs if "dropped" in repair.reason]


def test_what_reaches_outside_is_counted_and_what_touches_the_border_is_not():
    with noting_repairs() as repairs:
        decode_segmentation([[0, 0, 12, 0, 12, 10, 0, 10]], 10, 12, "f.json: 1")
    assert not repairs

    with noting_repairs() as repairs:
        mask = decode_segmentation([[-0.5, 0, 12.5, 0, 12.5, 10, -0.5, 10]], 10, 12, "f.json: 1")
    assert mask.all()
    assert [str(repair) for repair in repairs] == [
        "f.json: 1: cropped to the image of 12 × 10: from [-0.5, 0.0] to [12.5, 10.0] (x, y)"
    ]


@pytest.mark.parametrize(
    "polygons", [[[0.1, 0.1, 0.9, 0.1, 0.9, 1]], [[0, 0, 1, 0, 0.5, 1], [0.2, 0.2, 0.4, 0.2, 0.4, 0.4]]]
)
def test_fractions_of_the_image_are_asked_about(polygons):
    with pytest.raises(BadEntry, match="Coordinates are pixels: multiply x by the width, 40"):
        decode_segmentation(polygons, 30, 40, "instances.json: annotation 7")


@pytest.mark.parametrize("polygons", [[[0, 0, 1, 0, 1, 1, 0, 1]], [[0.1, 0.1, 0.9, 0.1, 0.9, 1], [3, 3, 9, 3, 9, 9]]])
def test_pixels_in_the_corner_are_no_fractions(polygons):
    assert decode_segmentation(polygons, 30, 40, "instances.json: annotation 7").any()


@pytest.mark.parametrize(
    "rle", [{"size": [12, 10], "counts": [120]}, {"size": [10, 12], "counts": [7]}, {"size": [10, 12], "counts": "T3o"}]
)
def test_run_lengths_that_do_not_fit_are_a_bad_entry(rle):
    with pytest.raises(BadEntry, match="instances.json: annotation 7: ") as caught:
        decode_segmentation(rle, 10, 12, "instances.json: annotation 7")
    assert (caught.value.file, caught.value.entry) == ("instances.json", "annotation 7")


def labelme(path, *shapes):
    named = [{"label": label, "points": points} for label, points in shapes]
    path.write_text(json.dumps({"shapes": named, "text": "it", "is_sentence": True}))
    return read_annotation(path)


def test_labelme_shapes_are_cropped_as_opencv_draws_them(tmp_path):
    points = [[-30.5, 4.5], [70, -20], [45, 40], [8, 33.9]]
    expected = np.zeros((30, 40), np.uint8)
    cv2.fillPoly(expected, [np.array(points).astype(np.int32)], 1)
    cv2.polylines(expected, [np.array(points).astype(np.int32)], True, 1)

    with noting_repairs() as repairs:
        mask, ignore = draw_regions(labelme(tmp_path / "a.json", ("target", points)), 30, 40)

    assert np.array_equal(mask, expected)
    assert ignore is None
    assert ["cropped to the image" in repair.reason for repair in repairs] == [True]


def test_a_labelme_shape_may_reach_very_far(tmp_path):
    far = [[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]]

    mask, _ = draw_regions(labelme(tmp_path / "a.json", ("target", far)), 30, 40)

    assert mask.all()


def test_labelme_shapes_without_pixels_are_dropped_beside_others(tmp_path):
    good = ("target", [[2, 2], [6, 2], [6, 6], [2, 6]])
    outside, two = ("target", [[90, 90], [99, 90], [99, 99]]), ("ignore", [[1, 1], [5, 5]])

    with noting_repairs() as repairs:
        mask, ignore = draw_regions(labelme(tmp_path / "a.json", good, outside, two), 30, 40)

    assert mask.sum() == 25
    assert ignore is None
    assert ["2 of 3 shapes dropped" in repair.reason for repair in repairs] == [False, True]


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [("target", [[90, 90], [99, 90], [99, 99]])],
        [("target", [[3, 3], [5, 3], [5, 5]]), ("ignored", [[3, 3], [5, 3], [5, 5]])],
    ],
    ids=["none", "outside", "ignored"],
)
def test_a_labelme_target_without_pixels_is_a_bad_entry(tmp_path, shapes):
    with pytest.raises(BadEntry, match="a.json marks no target"):
        draw_regions(labelme(tmp_path / "a.json", *shapes), 30, 40)


def test_labelme_fractions_are_asked_about(tmp_path):
    annotation = labelme(tmp_path / "a.json", ("target", [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]))

    with pytest.raises(BadEntry, match="fractions of the image"):
        draw_regions(annotation, 30, 40)


def test_repairs_are_noted_once_by_the_innermost_block():
    note_repair("f: 0", "nobody asks")
    with noting_repairs() as outer:
        note_repair("f: 1", "x")
        with noting_repairs() as inner:
            note_repair("f: 2", "y")
            note_repair("f: 2", "y")
        note_repair("f: 3", "z")

    assert [repair.entry for repair in outer] == ["1", "3"]
    assert [str(repair) for repair in inner] == ["f: 2: y"]
