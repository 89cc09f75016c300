"""Every metric against a case that is counted by hand."""

import pytest

from groundscore.scoring.metrics import metrics_of
from groundscore.scoring.split_scores import columns_of
from tests.groundscore.scoring.rows import question, row

GRES_SPLIT, MUSE_SPLIT = "grefcoco|unc|val", "MultiReasonSeg|val"
SPLITS = ("ReasonSeg|val", GRES_SPLIT, "R-refcoco|val", MUSE_SPLIT)


def metric(name, split, **flags):
    return next((one for one in metrics_of(split, **flags) if one.name == name), None)


def computed(name, rows, split=None, **flags):
    """A metric over rows, of the first kind of split that has it."""
    split = split or next(split for split in SPLITS if metric(name, split))
    return metric(name, split, **flags).compute(columns_of(split, rows, **flags))


def drawn(name, rows, split=GRES_SPLIT):
    """A metric as the reference counts it, over the masks as they were drawn."""
    return computed(name, rows, split, gres_reference=True)


# Three expressions: I/U = 30/60, 0/40, and nothing where there is nothing.
PLAIN = [row(30, 40, 50), row(0, 10, 30), row(0, 0, 0)]


def test_giou_is_the_mean_and_an_empty_union_counts_one():
    assert computed("gIoU", PLAIN) == (0.5 + 0 + 1) / 3


def test_ciou_is_the_ratio_of_the_sums():
    assert computed("cIoU", PLAIN) == 30 / 100


def test_ciou_of_nothing_but_empty_unions_is_one():
    assert computed("cIoU", [row(0, 0, 0), row(0, 0, 0)]) == 1.0


def test_pixel_sums_beyond_float32_stay_exact():
    rows = [row(2**24 + 1, 2**24 + 1, 2**24 + 1)] * 3 + [row(1, 1, 2)]

    assert computed("cIoU", rows) == (3 * (2**24 + 1) + 1) / (3 * (2**24 + 1) + 2)


@pytest.mark.parametrize("threshold,value", [(0.5, 1 / 3), (0.6, 1 / 3), (0.7, 0.0), (0.9, 0.0)])
def test_precision_is_strict_and_leaves_out_empty_targets(threshold, value):
    # IoU 0.5, 0.7 and 0; the fourth has no target. 0.5 is not above 0.5, nor 0.7 above 0.7.
    rows = [row(50, 50, 100), row(70, 70, 100), row(0, 0, 10), row(0, 0, 0)]

    assert computed(f"P@{threshold}", rows) == value


# Two empty targets (one rejected, one not) and three others (right, half right, rejected though a mask was drawn).
GRES = [
    row(0, 20, 0, present=False),
    row(0, 30, 0),
    row(10, 10, 10),
    row(10, 10, 20),
    row(15, 20, 40, present=False),
]


def test_a_rejected_expression_of_gres_has_an_empty_mask():
    assert computed("gIoU", GRES) == (1 + 0 + 1 + 0.5 + 0) / 5
    # Unions: 0 rejected, 30 wrongly predicted, 10, 20, and the target's 40.
    assert computed("cIoU", GRES) == 20 / 100


def test_n_acc_and_t_acc_of_gres():
    assert computed("N_acc", GRES) == 1 / 2
    assert computed("T_acc", GRES) == 2 / 3


def test_an_accepted_mask_without_pixels_is_empty():
    rows = [row(0, 0, 0), row(0, 0, 10)]

    assert computed("N_acc", rows) == 1.0
    assert computed("T_acc", rows) == 0.0
    assert computed("gIoU", rows) == 0.5


def test_classes_that_do_not_occur_have_no_accuracy():
    assert computed("N_acc", [row(1, 1, 1)]) is None
    assert computed("T_acc", [row(0, 0, 0)]) is None


def test_the_reference_scores_the_drawn_mask_of_a_rejected_target():
    # Empty: 1 and 0. Others: 1, 0.5 and 15 / 45 of the mask that it drew.
    assert drawn("gIoU", GRES) == pytest.approx((1 + 0 + 1 + 0.5 + 1 / 3) / 5)
    # grefcoco: the accepted 30, then 10, 20 and 45; refzom: without the 30.
    assert drawn("cIoU", GRES) == 35 / 105
    assert drawn("cIoU", GRES, "refzom|final|val") == 35 / 75


def test_the_reference_gives_no_point_for_an_accepted_empty_mask():
    assert drawn("gIoU", [row(0, 0, 0)]) == 0.0


def test_see_compares_presence_with_existence():
    rows = [
        row(5, 5, 5),
        row(5, 5, 5, present=False),
        row(0, 9, 0),
        row(0, 0, 0, present=False),
        row(0, 0, 5),  # said to be there, though no pixel was found
    ]

    assert computed("See", rows) == 3 / 5


def test_segment_is_ciou_over_all_expressions_false_ones_included():
    rows = [row(5, 5, 10), row(0, 30, 0), row(0, 25, 0, present=False)]

    assert computed("Segment", rows) == 5 / 40


@pytest.mark.parametrize(
    "answer,denies",
    [
        ("There is no kite here.", True),
        ("I can't see one.", True),
        ("I don’t see one.", True),
        ("[REJ].", True),
        ("Nothing like that; there is a cup, though.", True),
        ("It is a notable kite.", False),
        ("It is not blue, but here it is: [SEG].", False),
        ("Certainly.", False),
        ("", False),
    ],
)
def test_say_is_the_share_of_false_premises_that_are_denied(answer, denies):
    true = row(5, 5, 5, answer="There is no need to ask: [SEG].")

    assert computed("Say", [true, row(0, 0, 0, present=False, answer=answer)]) == denies


def test_say_needs_written_answers():
    assert computed("Say", [row(0, 0, 0, present=False), row(5, 5, 5, answer="It is [SEG].")]) is None


# Two images, three refs. Ref 1: I = 10 + 5, U = 10 + 20, and 15 more for a false sentence that was answered.
# Ref 2: its one false sentence is rejected, its true one misses. Ref 1 of the other image is another ref.
ROBUST = [
    row(10, 10, 10, ref=1, expression=0),
    row(5, 5, 20, ref=1, expression=1),
    row(0, 15, 0, ref=1, expression=2),
    row(0, 7, 0, ref=1, expression=3, present=False),
    row(0, 6, 4, ref=2, expression=4),
    row(0, 0, 0, ref=2, expression=5, present=False),
    row(8, 8, 8, ref=1, expression=0, item=1),
]


def test_riou_puts_what_false_sentences_were_given_into_the_union():
    assert computed("rIoU", ROBUST) == pytest.approx((15 / 45 + 0 / 10 + 8 / 8) / 3)


def test_mrr_is_the_mean_over_refs_that_have_false_sentences():
    assert computed("mRR", ROBUST) == (1 / 2 + 1 / 1) / 2


def test_miou_is_the_mean_over_refs_of_the_mean_over_true_sentences():
    assert computed("mIoU", ROBUST) == pytest.approx(((1 + 0.25) / 2 + 0 + 1) / 3)


def test_oiou_sums_over_true_sentences():
    assert computed("oIoU", ROBUST) == 23 / (10 + 20 + 10 + 8)


def test_a_ref_of_rejected_false_sentences_alone_has_riou_one_and_no_miou():
    rows = [row(0, 0, 0, ref=1, present=False)]

    assert computed("rIoU", rows) == 1.0
    assert computed("mRR", rows) == 1.0
    assert computed("mIoU", rows) is None
    assert computed("oIoU", rows) is None


def test_refs_without_false_sentences_have_no_rejection_rate():
    assert computed("mRR", [row(5, 5, 5, ref=1)]) is None


# Image 0: a surplus empty prediction in one question, a target too few found in the other. Image 1: all found.
MUSE = [
    question([[6, 0], [0, 4], [0, 0]], [8, 4, 0], [6, 8], item=0, expression=0),  # 6/8, 4/8, empty extra
    question([[5, 0]], [5], [5, 9], item=0, expression=1),  # 5/5, a target of 9 left
    question([[3]], [3], [4], item=1),  # 3/4
]


def test_muse_scores_pairs():
    assert computed("gIoU", MUSE, MUSE_SPLIT) == (0.75 + 0.5 + 0 + 1 + 0 + 0.75) / 6
    assert computed("cIoU", MUSE, MUSE_SPLIT) == (6 + 4 + 5 + 3) / (8 + 8 + 0 + 5 + 9 + 4)


def test_the_references_number_of_pairs_is_taken_per_image():
    # Image 0 has 4 predictions and 4 targets in all, though 5 pairs.
    assert computed("gIoU_reference_pairs", MUSE) == (0.75 + 0.5 + 1 + 0.75) / (4 + 1)
