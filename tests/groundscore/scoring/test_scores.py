"""Scores of a split: which metrics it has, and how sure they are."""

import json

import numpy as np
import pytest

from groundscore.errors import UserError
from groundscore.scoring.bootstrap import resample
from groundscore.scoring.metrics import kind_of
from groundscore.scoring.split_scores import score_split
from tests.groundscore.scoring.rows import question, row

PRECISIONS = {"P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9"}
COUNTS = {"images", "expressions"}


def metrics_in(scores):
    return {name.removesuffix("_ci95") for name in scores if name.endswith("_ci95")}


@pytest.mark.parametrize(
    "spec,kind",
    [
        ("ReasonSeg|test_shortquery", "plain"),
        ("refcoco+|unc|testA", "plain"),
        ("refclef|unc|val", "plain"),
        ("multirefcocog|umd|val", "plain"),
        ("grefcoco|unc|val", "gres"),
        ("refzom|final|test", "gres"),
        ("custom|mine", "gres"),
        ("fprefcoco|val", "false_premise"),
        ("fpReasonSeg|test", "false_premise"),
        ("refcocog|val", "false_premise"),
        ("R-refcoco|val", "robust"),
        ("R-refcoco+|unc|testA", "robust"),
        ("MultiReasonSeg|test_many", "muse"),
    ],
)
def test_every_split_has_a_kind(spec, kind):
    assert kind_of(spec) == kind


@pytest.mark.parametrize(
    "spec,names",
    [
        ("ReasonSeg|val", {"gIoU", "cIoU"} | PRECISIONS),
        ("refzom|final|val", {"gIoU", "cIoU", "N_acc", "T_acc"} | PRECISIONS),
        ("fpReasonSeg|val", {"gIoU", "cIoU", "See", "Segment", "Say"} | PRECISIONS),
        (
            "R-refcoco|val",
            {"gIoU", "cIoU", "See", "Segment", "Say", "rIoU", "mRR", "mIoU", "oIoU"} | PRECISIONS,
        ),
    ],
)
def test_scores_have_the_metrics_of_their_kind_with_intervals_and_counts(spec, names):
    scores = score_split(spec, [row(1, 2, 3, item=n, ref=n) for n in range(3)])

    assert metrics_in(scores) == names <= scores.keys()
    assert {name: scores[name] for name in COUNTS} == {"images": 3, "expressions": 3}
    json.dumps(scores, allow_nan=False)


def test_muse_counts_predictions_targets_and_pairs():
    scores = score_split("MultiReasonSeg|val", [question([[6], [0]], [8, 2], [6]), question([[3]], [3], [3], item=1)])

    precisions = {f"P@0.{tenth}" for tenth in range(5, 10)}
    assert metrics_in(scores) == {"gIoU", "cIoU", "gIoU_reference_pairs"} | precisions
    assert scores["gIoU"] == (6 / 8 + 0 + 1) / 3
    assert {name: scores[name] for name in ("images", "expressions", "predictions", "targets", "pairs")} == {
        "images": 2,
        "expressions": 2,
        "predictions": 3,
        "targets": 2,
        "pairs": 3,
    }


def test_what_does_not_occur_is_none_with_no_interval():
    scores = score_split("grefcoco|unc|val", [row(1, 2, 3, item=n) for n in range(3)])

    assert (scores["N_acc"], scores["N_acc_ci95"], scores["T_acc"]) == (None, None, 1.0)


def test_the_reference_flag_changes_gres_sets_alone():
    rows = [row(4, 4, 8, present=False), row(0, 6, 0, item=1), row(0, 0, 0, present=False, item=2)]

    def headline(spec, **flags):
        scores = score_split(spec, rows, bootstrap=0, **flags)
        return scores["gIoU"], scores["cIoU"]

    assert headline("grefcoco|unc|val") == ((0 + 0 + 1) / 3, 0 / (8 + 6))
    assert headline("grefcoco|unc|val", gres_reference=True) == ((0.5 + 0 + 1) / 3, 4 / (8 + 6))
    assert headline("refzom|final|val", gres_reference=True) == ((0.5 + 0 + 1) / 3, 4 / 8)
    assert headline("refcoco|unc|val", gres_reference=True) == headline("refcoco|unc|val")


def test_the_order_of_rows_changes_nothing():
    rng = np.random.default_rng(0)
    rows = [row(int(i), 100, 90, item=n // 3, expression=n % 3) for n, i in enumerate(rng.integers(0, 90, 60))]

    assert score_split("refcoco|unc|val", rows) == score_split("refcoco|unc|val", rows[::-1])


def test_intervals_are_the_middle_of_what_other_images_would_have_given():
    # Two images with cIoU 0.2 and 0.6, equal unions: a resample has 0.2, 0.4 or 0.6 with odds 1 : 2 : 1.
    scores = score_split("refcoco|unc|val", [row(2, 6, 6, item=0), row(6, 10, 6, item=1)], bootstrap=2000)

    assert scores["cIoU"] == 0.4
    assert scores["cIoU_ci95"] == [0.2, 0.6]


def test_intervals_take_an_image_with_all_its_expressions():
    rows = [row(value, 10, 10, item=item, expression=n) for item, value in enumerate((0, 10)) for n in range(50)]

    low, high = score_split("refcoco|unc|val", rows)["gIoU_ci95"]

    assert (low, high) == (0.0, 1.0)  # 100 independent expressions would give about 0.4 to 0.6


def test_intervals_narrow_as_images_are_added():
    rng = np.random.default_rng(1)
    widths = []
    for images in (20, 2000):
        rows = [row(int(i), 100, 100, item=n) for n, i in enumerate(rng.integers(0, 101, images))]
        low, high = score_split("refcoco|unc|val", rows)["P@0.5_ci95"]
        widths.append(high - low)

    assert widths[1] < widths[0] / 5


def test_intervals_repeat_with_the_seed():
    rows = [row(n, 30, 30, item=n) for n in range(30)]

    assert score_split("refcoco|unc|val", rows, seed=1) == score_split("refcoco|unc|val", rows, seed=1)
    assert score_split("refcoco|unc|val", rows, seed=1) != score_split("refcoco|unc|val", rows, seed=2)


@pytest.mark.parametrize("rows,bootstrap", [([row(1, 2, 3), row(1, 2, 4, expression=1)], 1000), ([row(1, 2, 3)], 0)])
def test_one_image_or_no_resamples_give_no_interval(rows, bootstrap):
    scores = score_split("refcoco|unc|val", rows, bootstrap=bootstrap)

    assert scores["gIoU"] is not None
    assert scores["gIoU_ci95"] is None


def test_a_resample_draws_as_many_images_as_there_are():
    totals = resample(np.array([[1.0, 0.0], [1.0, 5.0], [1.0, 7.0]]), 500, seed=0)

    assert (totals[:, 0] == 3).all()
    assert totals[:, 1].min() == 0
    assert totals[:, 1].max() == 21
    assert totals[:, 1].mean() == pytest.approx(12, rel=0.05)


def test_no_rows_are_an_error():
    with pytest.raises(UserError, match=r"refcoco\|unc\|val: there is nothing to score"):
        score_split("refcoco|unc|val", [])
