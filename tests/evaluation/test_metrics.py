"""Metrics against cases that are counted by hand."""

import pytest
import torch

from utils.metrics import CIoU, GIoU, PrecisionAt, intersection_and_union, mask_metrics


def _masks(*rows):
    return torch.tensor(rows, dtype=torch.bool).unsqueeze(1)  # [E, 1, W]


def test_pixel_counts_are_exact():
    prediction = _masks([1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0])
    truth = _masks([0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0])

    counts = intersection_and_union(prediction, truth)

    assert counts.tolist() == [[2, 0, 0], [4, 0, 3], [3, 0, 1]]
    assert counts.dtype == torch.int64


def test_ignored_pixels_count_neither_as_hits_nor_as_errors():
    prediction = _masks([1, 1, 1, 0])
    truth = _masks([0, 1, 1, 1])
    ignore = torch.tensor([[True, True, False, False]])

    assert intersection_and_union(prediction, truth, ignore).flatten().tolist() == [1, 2, 2]


def test_masks_of_different_sizes_are_an_error():
    with pytest.raises(ValueError, match="different sizes"):
        intersection_and_union(torch.zeros(1, 2, 2).bool(), torch.zeros(1, 2, 3).bool())


def test_giou_is_the_mean_and_an_empty_union_counts_one():
    giou = GIoU()
    giou.update([1, 0, 0], [2, 4, 0])
    assert giou.value() == (0.5 + 0.0 + 1.0) / 3


def test_ciou_is_the_ratio_of_the_sums():
    ciou = CIoU()
    ciou.update([1, 0, 30], [2, 4, 60])
    assert ciou.value() == 31 / 66


def test_sums_beyond_float32_stay_exact():
    ciou = CIoU()
    ciou.update([1] * 3 + [2**24] * 3, [2**24 + 1] * 6)
    assert ciou.intersection == 3 + 3 * 2**24
    assert ciou.union == 6 * (2**24 + 1)


def test_precision_leaves_out_empty_targets_and_is_strict():
    precision = PrecisionAt(0.5)
    precision.update([1, 3, 0, 0], [2, 4, 0, 5], [1, 3, 0, 0])
    assert precision.state() == {"threshold": 0.5, "count": 2, "hits": 1}  # 0.5 is not above 0.5
    assert precision.value() == 0.5


def test_a_metric_that_saw_nothing_has_no_value():
    assert all(metric.value() is None for metric in mask_metrics().values())


def test_merged_metrics_equal_one_that_saw_everything():
    pairs = [(1, 2, 1), (0, 4, 2), (0, 0, 0), (30, 60, 40)]
    whole, left, right = mask_metrics(), mask_metrics(), mask_metrics()
    for metrics, part in ((whole, pairs), (left, pairs[:1]), (right, pairs[1:])):
        for metric in metrics.values():
            metric.update(*zip(*part, strict=True))

    for name, metric in whole.items():
        merged = left[name].merge(type(metric)(**right[name].state()))
        assert merged.state() == metric.state()
