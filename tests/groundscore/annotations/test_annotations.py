"""Annotations on disk become masks, and what is wrong with them is named."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from groundscore.annotations import records
from groundscore.annotations.labelme import draw_regions, read_annotation
from groundscore.annotations.records import KeyedRecords, PackedRecords, encode
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError
from groundscore.reading import read_json

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]
OVERLAPPING = [[0, 0, 6, 0, 6, 6, 0, 6], [3, 3, 9, 3, 9, 9, 3, 9]]


@pytest.mark.parametrize("without", [False, True], ids=["orjson", "standard library"])
def test_a_record_is_written_as_the_standard_library_writes_it(monkeypatch, without):
    if without:
        monkeypatch.setattr(records, "orjson", None)
    rng = np.random.default_rng(0)
    numbers = [
        float(f"{digits}e{power}") for digits in (1, 1.5, 9.999999, -1.2345678901234567) for power in range(-40, 40)
    ]
    numbers += (rng.uniform(-1, 1, 2000) * 10.0 ** rng.integers(-7, 20, 2000)).tolist()
    texts = ["", "é", "\x7f", "\ud800", "a/b", "3e5", "\u2028", "[SEG]", '"', "\\"]
    for value in [*numbers, *texts, 2**70, -(2**63), True, None, (1, [2]), {"e": {"1e5": numbers[:3]}}]:
        for record in (value, [value], {"key": value}):
            assert encode(record) == json.dumps(record, separators=(",", ":")).encode()


def test_packed_records_are_what_went_in():
    values = [{"a": [1, 2]}, "é", [], 3]

    packed = PackedRecords(values)

    assert list(packed) == values
    assert packed[-1] == 3
    assert len(PackedRecords([])) == 0
    assert KeyedRecords({7: "seven", -1: "one less"})[-1] == "one less"
    with pytest.raises(IndexError):
        packed[4]
    with pytest.raises(KeyError):
        KeyedRecords({7: "seven"})[8]


def test_overlapping_polygons_are_a_union():
    mask = decode_segmentation(OVERLAPPING, 10, 10, "here")

    assert mask.dtype == np.uint8
    assert mask.max() == 1
    assert mask.sum() == 36 + 36 - 9


def test_all_forms_of_a_segmentation_agree():
    mask = decode_segmentation([SQUARE], 10, 12, "here")
    compressed = coco_mask.encode(np.asfortranarray(mask))
    as_text = {"size": [10, 12], "counts": compressed["counts"].decode()}
    column_major = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column_major, [0]]))).tolist()
    lengths = np.diff([0, *edges, len(column_major)]).tolist()

    for form in (as_text, [as_text], {"size": [10, 12], "counts": lengths}, [as_text, as_text]):
        assert np.array_equal(decode_segmentation(form, 10, 12, "here"), mask)


def test_no_polygons_are_an_empty_mask():
    assert not decode_segmentation([], 10, 10, "here").any()


@pytest.mark.parametrize(
    "segmentation",
    [
        [["a", "b"]],
        [["2", "2", "6", "2", "6", "6"]],
        [[2, 2, 6, 2, 6, True]],
        [[2, 2, 6, 2, 6, 6, 2]],
        [[2, 2, 6, 2, 6, 10**400]],
        [[float("nan")] * 6],
        [[[1, 2], [3, 4], [5, 6]]],
        [1, 2, 3, 4, 5, 6],
        "polygon",
        None,
        {"size": [9, 9], "counts": [81]},
        {"size": [10, 10], "counts": [7]},
        {"size": [10, 10], "counts": [-50, 150]},
        {"size": [10, 10], "counts": ["100"]},
        {"size": [10, 10], "counts": [100.0]},
        {"size": [10, 10], "counts": [True, 99]},
        {"size": [10.0, 10], "counts": [100]},
        {"size": ["10", "10"], "counts": [100]},
        {"size": [12, 10], "counts": [120]},
        {"size": [0, 0], "counts": []},
        {"size": "10", "counts": [100]},
        {"size": [10, 10], "counts": ""},
        {"size": [10, 10], "counts": "~~~~"},
        {"size": [10, 10], "counts": "T3o"},
        {"size": [10, 10], "counts": "T3 "},
        {"size": [10, 10]},
        {},
    ],
)
def test_bad_segmentations_name_their_annotation(segmentation):
    with pytest.raises(UserError, match=r"instances\.json: annotation 7"):
        decode_segmentation(segmentation, 10, 10, "instances.json: annotation 7")


def write_labelme(path, **changes):
    path.write_text(json.dumps({"shapes": [], "text": ["it"], "is_sentence": True, **changes}))
    return path


def test_smaller_regions_lie_on_larger_ones(tmp_path):
    square = [[0, 0], [7, 0], [7, 7], [0, 7]]
    inner = [[2, 2], [4, 2], [4, 4], [2, 4]]
    shapes = [
        {"label": "please Ignore this", "points": inner},
        {"label": "target", "points": square},
        {"label": "FLAG", "points": [[0, 0], [9, 9], [0, 9]]},
    ]

    mask, ignore = draw_regions(read_annotation(write_labelme(tmp_path / "a.json", shapes=shapes)), 10, 10)

    assert ignore.sum() == 9
    assert mask.sum() == 64 - 9
    assert set(np.unique(mask)) == {0, 1}


def test_points_are_cut_to_whole_pixels(tmp_path):
    shapes = [{"label": "target", "points": [[1.9, 1.9], [5.9, 1.9], [5.9, 5.9], [1.9, 5.9]]}]

    mask, ignore = draw_regions(read_annotation(write_labelme(tmp_path / "a.json", shapes=shapes)), 10, 10)

    assert np.argwhere(mask).min() == 1
    assert np.argwhere(mask).max() == 5
    assert ignore is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_old_encodings_are_read(tmp_path, encoding):
    (tmp_path / "a.json").write_text(
        json.dumps({"text": "the café’s", "is_sentence": False, "shapes": []}, ensure_ascii=False), encoding=encoding
    )

    assert read_annotation(tmp_path / "a.json").sentences == ("the café’s",)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"text": []}, "at least one sentence"),
        ({"text": 3}, "at least one sentence"),
        ({"shapes": [{"label": "target"}]}, "shape 0 has no 'points'"),
        ({"shapes": [{"label": "target", "points": []}]}, "shape 0: points"),
        ({"shapes": [{"label": "target", "points": [[1, "x"]]}]}, "shape 0: points"),
    ],
)
def test_bad_reason_seg_annotations_are_named(tmp_path, changes, message):
    path = write_labelme(tmp_path / "a.json", **changes)

    with pytest.raises(UserError, match=message) as caught:
        read_annotation(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content,message", [("{", "not valid JSON"), ("[]", "must contain a JSON dict")])
def test_bad_json_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)

    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "a.json", dict)
    with pytest.raises(UserError, match="missing"):
        read_json(tmp_path / "b.json")
