"""Saved predictions: what was written is scored as what it was written from, and a bad file says where it is bad."""

import json

import numpy as np
import pytest

from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError
from groundscore.exchange.counting import count_predictions
from groundscore.exchange.jsonl import write_predictions
from groundscore.scoring.counts import ExpressionCounts, QuestionCounts
from groundscore.scoring.masks import encode_mask
from groundscore.scoring.metrics import kind_of
from groundscore.scoring.split_scores import score_split
from groundscore.splits import EvaluationItem, OpenSplit, evaluation_set, evaluation_sets
from tests.groundscore.scoring.rows import dense_expression_counts, dense_question_counts
from tests.test_miniature_sets import SPLITS


def scored(path, root, specs, *, limit=None, **options):
    splits = {spec: OpenSplit(spec, root, items, limit=limit) for spec, items in evaluation_sets(specs, root).items()}
    scorers = count_predictions(path, splits, **options)
    return {spec: scorer.counts() for spec, scorer in scorers.items()}


def line_for(spec, item, expression, root, masks, *, present=True):
    line = {"split": spec, "image": item.path_below(root), "expression": expression, "present": present}
    if kind_of(spec) == "muse":
        return line | {"index": item.index, "masks": [encode_mask(mask) for mask in masks]}
    return line | {"mask": encode_mask(masks[0]) if len(masks) else None}


def perfect_lines(specs, root):
    for spec, items in evaluation_sets(specs, root).items():
        for item in items:
            for expression, exists in enumerate(item.exists):
                if kind_of(spec) == "muse":
                    masks = item.target_masks[expression][::-1]
                else:
                    masks = item.masks[expression][None][: int(exists)]
                yield line_for(spec, item, expression, root, masks, present=exists)


@pytest.fixture
def saved(world, tmp_path):
    """A file of perfect predictions of refcoco's validation split that a test may change line by line."""
    path = tmp_path / "predictions.jsonl"
    lines = list(perfect_lines("refcoco|unc|val", world))

    def write(change=lambda lines: lines):
        write_predictions(path, change(lines) or lines)
        return path

    write.lines = lines
    return write


def test_perfect_predictions_score_one_on_every_split(world, tmp_path):
    specs = "||".join(SPLITS)
    write_predictions(tmp_path / "perfect.jsonl", perfect_lines(specs, world))

    counted = scored(tmp_path / "perfect.jsonl", world, specs)

    assert list(counted) == SPLITS
    for spec, split in counted.items():
        scores = score_split(spec, split.rows, bootstrap=20)
        values = {name.removesuffix("_ci95"): scores[name.removesuffix("_ci95")] for name in scores if "_ci95" in name}
        assert values.pop("Say", None) is None
        assert {name: value for name, value in values.items() if value not in (1.0, None)} == {}
        assert values["gIoU"] == values["cIoU"] == 1.0


@pytest.mark.parametrize("spec", ["ReasonSeg|val", "grefcoco|unc|val", "R-refcoco|val", "MultiReasonSeg|test"])
def test_saved_predictions_score_as_the_masks_they_were_saved_from(world, tmp_path, spec):
    rng = np.random.default_rng(0)
    lines, rows = [], []
    for number, item in enumerate(evaluation_set(spec, world)):
        for expression in range(len(item.expressions)):
            common = {"item": number, "image": item.path_below(world), "expression": expression}
            if kind_of(spec) == "muse":
                masks = rng.random((int(rng.integers(0, 4)), *item.image.shape[:2])) < 0.3
                rows.append(QuestionCounts(**common, **questioned(masks, item.target_masks[expression])))
                lines.append(line_for(spec, item, expression, world, masks, present=bool(len(masks))))
                continue
            mask = rng.random((1, *item.image.shape[:2])) < 0.5
            present = bool(rng.random() < 0.7)
            intersection, union, predicted, target = dense_expression_counts(
                mask, item.masks[[expression]], item.ignore
            )
            rows.append(
                ExpressionCounts(
                    **common,
                    ref=item.ref_ids[expression],
                    exists=item.exists[expression],
                    present=present,
                    intersection=intersection[0],
                    union=union[0],
                    predicted_area=predicted[0],
                    target_area=target[0],
                )
            )
            lines.append(line_for(spec, item, expression, world, mask, present=present))
    write_predictions(tmp_path / "noise.jsonl", lines)

    counted = scored(tmp_path / "noise.jsonl", world, spec)[spec]

    for gres_reference in (False, True):
        options = {"gres_reference": gres_reference, "bootstrap": 50}
        assert score_split(spec, counted.rows, **options) == score_split(spec, rows, **options)


def questioned(masks, targets):
    intersections, predicted, target = dense_question_counts(masks, targets)
    return {"intersections": intersections, "predicted_areas": predicted, "target_areas": target}


def test_ignored_pixels_do_not_count(world, tmp_path):
    lines = list(perfect_lines("ReasonSeg|val", world))
    items = evaluation_set("ReasonSeg|val", world)
    number, item = next((n, item) for n, item in enumerate(items) if item.ignore is not None and item.ignore.any())
    lines[number]["mask"] = encode_mask(item.masks[0] | item.ignore)
    write_predictions(tmp_path / "p.jsonl", lines)

    scores = score_split("ReasonSeg|val", scored(tmp_path / "p.jsonl", world, "ReasonSeg|val")["ReasonSeg|val"].rows)

    assert scores["cIoU"] == 1.0


def test_the_order_of_lines_and_blank_lines_change_nothing(world, saved):
    rows = scored(saved(), world, "refcoco|unc|val")["refcoco|unc|val"].rows
    path = saved(lambda lines: lines[::-1])
    path.write_text(path.read_text() + "\n\n")

    assert scored(path, world, "refcoco|unc|val")["refcoco|unc|val"].rows == rows


def test_uncompressed_run_lengths_are_read(world, saved):
    line = saved.lines[0]
    height, width = line["mask"]["size"]
    mask = decode_segmentation(line["mask"], height, width, "here").T.reshape(-1)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], mask]))).tolist()
    lengths = np.diff([0, *starts, height * width]).tolist()
    path = saved(lambda lines: [line | {"mask": {"size": [height, width], "counts": lengths}}, *lines[1:]])

    rows = scored(path, world, "refcoco|unc|val")["refcoco|unc|val"].rows

    assert all(row.intersection == row.union for row in rows)


def test_a_limit_needs_the_first_images_only(world, saved):
    first = saved.lines[0]["image"]
    path = saved(lambda lines: [line for line in lines if line["image"] == first])

    counted = scored(path, world, "refcoco|unc|val", limit=1)["refcoco|unc|val"]

    assert {row.image for row in counted.rows} == {first}


def test_lines_of_other_splits_are_left_alone(world, tmp_path):
    lines = perfect_lines("refcoco|unc|val||ReasonSeg|val", world)
    write_predictions(tmp_path / "two.jsonl", lines)

    assert list(scored(tmp_path / "two.jsonl", world, "ReasonSeg|val")) == ["ReasonSeg|val"]


def test_lines_of_other_splits_may_be_repeated_and_bad(world, tmp_path):
    lines = [*perfect_lines("ReasonSeg|val", world), *[{"split": "refcoco|unc|val", "expression": "x"}] * 2]
    write_predictions(tmp_path / "two.jsonl", lines)

    assert list(scored(tmp_path / "two.jsonl", world, "ReasonSeg|val")) == ["ReasonSeg|val"]


def changed(number, **values):
    return lambda lines: [line | values if n == number else line for n, line in enumerate(lines)]


@pytest.mark.parametrize(
    "change,message",
    [
        (changed(2, image="elsewhere.jpg"), r"line 3: refcoco\|unc\|val has no image 'elsewhere.jpg'"),
        (lambda lines: lines[3:], r"3 of \d+ expressions .* have no prediction"),
        (lambda lines: lines + [lines[4]], r"line \d+ has the same expression as line 5: refcoco\|unc\|val"),
        (lambda lines: lines + [lines[0] | {"image": "nowhere.jpg"}], r"line \d+: .* has no image 'nowhere.jpg'"),
        (lambda lines: lines + [lines[0] | {"expression": 99}], r"no expression 99 of refer_seg/.*, which has \d+"),
        (changed(1, split="refcoco|unc|tset"), r"line 2: .*no refs of split 'tset'"),
        (changed(1, split="nothing"), "line 2: unknown evaluation set 'nothing'"),
        (changed(3, present=1), "line 4: 'present' is true or false, not 1"),
        (changed(3, expression=-1), "line 4: 'expression' should be a number from 0, it is -1"),
        (changed(3, expression="a"), "line 4: 'expression' is not a whole number"),
        (changed(3, expression=1.5), "line 4: 'expression' is not a whole number"),
        (changed(3, mask="abc"), "line 4: a mask is a COCO RLE"),
        (changed(3, mask=[1]), "line 4: a mask is a COCO RLE"),
        (changed(3, mask={"size": [3, 4], "counts": "0"}), r"line 4: an RLE for an image of \[3, 4\]"),
        (changed(3, mask={"size": [96, 128]}), "line 4: an RLE"),
        (
            lambda lines: [lines[0] | {"mask": {"size": lines[0]["mask"]["size"], "counts": "1"}}, *lines[1:]],
            "line 1: ",
        ),
        (
            lambda lines: [{k: v for k, v in lines[0].items() if k != "mask"}],
            "line 1 has no 'mask'; the README of groundscore",
        ),
        (
            lambda lines: [{k: v for k, v in lines[0].items() if k != "split"}],
            "line 1 has no 'split'; the README of groundscore",
        ),
        (lambda lines: [[]], "line 1 should be an object"),
    ],
)
def test_a_bad_file_says_where_it_is_bad(world, saved, change, message):
    path = saved(change)

    with pytest.raises(UserError, match=message) as caught:
        scored(path, world, "refcoco|unc|val")

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text,message", [("{", "line 1 is not valid JSON"), ("", "is empty; it is to"), ("\n \n", "contains no")]
)
def test_what_is_no_file_of_predictions_is_an_error(world, tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)

    with pytest.raises(UserError, match=message):
        scored(tmp_path / "p.jsonl", world, "refcoco|unc|val")


def test_a_missing_file_a_folder_and_bytes_are_errors(world, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe\x00{")
    for path, message in (
        ("none.jsonl", "is missing"),
        (".", "in no format that is recognised"),
        ("p.jsonl", "not UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            scored(tmp_path / path, world, "refcoco|unc|val")


def test_a_split_without_any_prediction_is_an_error(world, saved):
    with pytest.raises(UserError, match=r"no prediction for ReasonSeg\|val; it has some for refcoco\|unc\|val"):
        scored(saved(), world, "refcoco|unc|val||ReasonSeg|val")


def test_a_muse_entry_and_its_image_must_agree(world, tmp_path):
    lines = list(perfect_lines("MultiReasonSeg|val", world))
    lines[0]["image"] = "other.jpg"
    write_predictions(tmp_path / "p.jsonl", lines)

    with pytest.raises(UserError, match=r"line 1: entry 0 of MultiReasonSeg\|val is about .*, not other.jpg"):
        scored(tmp_path / "p.jsonl", world, "MultiReasonSeg|val")


def test_an_unknown_muse_entry_is_an_error(world, tmp_path):
    lines = list(perfect_lines("MultiReasonSeg|val", world))
    write_predictions(tmp_path / "p.jsonl", [*lines, lines[0] | {"index": 99}])

    with pytest.raises(UserError, match=r"has no entry 99, expression 0"):
        scored(tmp_path / "p.jsonl", world, "MultiReasonSeg|val")


def test_own_data_may_show_an_image_twice_if_predictions_tell_entries_apart(tmp_path):
    from PIL import Image

    (tmp_path / "custom").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "custom/a.png")
    entry = {
        "image": "a.png",
        "conversations": [[{"question": "Where is it?", "answer": "[SEG]."}]],
        "masks": [{"polygons": [[0, 0, 4, 0, 4, 3, 0, 3]]}],
    }
    (tmp_path / "custom/mine.jsonl").write_text(json.dumps(entry) + "\n" + json.dumps(entry) + "\n")
    lines = list(perfect_lines("custom|mine", tmp_path))

    write_predictions(tmp_path / "p.jsonl", [line | {"index": n} for n, line in enumerate(lines)])
    assert len(scored(tmp_path / "p.jsonl", tmp_path, "custom|mine")["custom|mine"].rows) == 2

    write_predictions(tmp_path / "p.jsonl", lines[:1])
    with pytest.raises(UserError, match=r"custom/a.png occurs more than once .* need 'index'"):
        scored(tmp_path / "p.jsonl", tmp_path, "custom|mine")


def test_a_set_without_refs_is_counted(tmp_path):
    masks = np.eye(8, dtype=np.uint8)[None]
    item = EvaluationItem(
        image_path=tmp_path / "a.jpg",
        image=np.zeros((8, 8, 3), np.uint8),
        expressions=["it"],
        kind="referring",
        masks=masks,
        ignore=None,
        exists=[True],
        dataset="boxes",
        split="val",
    )
    write_predictions(tmp_path / "p.jsonl", [line_for("boxes|val", item, 0, tmp_path, masks)])

    splits = {"boxes|val": OpenSplit("boxes|val", tmp_path, [item])}
    (row,) = count_predictions(tmp_path / "p.jsonl", splits)["boxes|val"].counts().rows

    assert (row.ref, row.intersection, row.union) == (None, 8, 8)


def test_progress_counts_images(world, saved):
    seen = []

    scored(saved(), world, "refcoco|unc|val", progress=lambda *call: seen.append(call))

    total = len(evaluation_set("refcoco|unc|val", world))
    assert seen == [("refcoco|unc|val", done, total) for done in range(total + 1)]
