"""What a choice of layer is worth: the gain of the best layer, the luck in it, and what of it is the layers'."""

import json
from dataclasses import replace

import numpy as np
import pytest

from groundscore.errors import UserError
from groundscore.scoring.layer_rows import LayerRow, read_layer_rows
from groundscore.scoring.layers import LayerColumns, summarise, summarise_rows
from tests.groundscore.scoring.rows import question, row

SPLIT = "refcoco|unc|val"


def layer_row(layers, redraws=(), *, greedy=None, item=0, kinds=("explicit", "positive", "single"), **options):
    """An expression with a target of 100 pixels whose masks have these IoU, in percent, by layer and by redraw."""
    masks = [row(iou, iou, 100, item=item, **options) for iou in (*layers, *redraws)]
    return LayerRow(
        SPLIT,
        "given",
        tuple(kinds),
        masks[: len(layers)],
        None if greedy is None else masks[greedy],
        {"0.2": masks[len(layers) :]} if redraws else {},
        [] if greedy is None else [[0.0] * greedy + [1.0] + [0.0] * (len(layers) - greedy - 1)],
        [] if greedy is None else [greedy],
    )


def test_gains_luck_and_what_is_left_are_those_counted_by_hand():
    rows = [
        layer_row([80, 10, 50], [40, 60], greedy=0),  # another layer +0.3, luck +0.1
        layer_row([10, 20, 50], [70, 30], greedy=2, item=1),  # the last is the best: 0, luck +0.2
        layer_row([90, 10, 40], [10, 30], greedy=1, item=2),  # +0.5, and no redraw is better
    ]
    found = summarise(LayerColumns.of(rows), bootstrap=0)

    def scores(name):
        return found["scores"][name]["gIoU"]["value"]

    assert (scores("last"), scores("greedy")) == (pytest.approx(1.4 / 3), pytest.approx((0.8 + 0.5 + 0.1) / 3))
    assert [scores(f"layer {layer}") for layer in range(3)] == pytest.approx([1.8 / 3, 0.4 / 3, 1.4 / 3])
    assert (scores("best layer"), scores("best redraw")) == (pytest.approx(2.2 / 3), pytest.approx(1.7 / 3))
    gains = {name: found["gains"][name]["value"] for name in ("layers", "luck", "beyond_luck")}
    assert gains == {
        "layers": pytest.approx(0.8 / 3),
        "luck": pytest.approx(0.1),
        "beyond_luck": pytest.approx(0.5 / 3),
    }
    assert found["differences"]["best layer - best redraw"]["value"] == pytest.approx(0.5 / 3)
    assert found["noise"] == pytest.approx(np.quantile([0.1, 0.2, 0.0], 0.95))
    above = {name: one["value"] for name, one in found["gains"]["above_noise"].items()}
    assert above == {
        "layers": pytest.approx(2 / 3),
        "redraws": pytest.approx(1 / 3),
        "beyond_luck": pytest.approx(1 / 3),
    }
    assert (found["chosen"], found["best"]) == ([1, 1, 1], [2, 0, 1])
    assert found["probabilities"] == pytest.approx([1 / 3] * 3)


def noisy_rows(needs_first: float, images: int = 300):
    """Layers and redraws of one quality with noise; of a share of the images layer 0 is better, with another kind."""
    rng = np.random.default_rng(0)
    rows = []
    for item in range(images):
        layers, redraws = (np.clip(rng.normal(60, 6, size), 0, 100).round().astype(int) for size in (9, 8))
        other = item < needs_first * images
        layers[0] += 30 * other
        kinds = ("implicit" if other else "explicit", "positive", "single")
        rows.append(layer_row(layers.tolist(), redraws.tolist(), item=item, kinds=kinds))
    return summarise(LayerColumns.of(rows))


def test_layers_that_differ_by_luck_alone_are_worth_nothing():
    found = noisy_rows(0.0)

    gain, left = found["gains"]["layers"], found["gains"]["beyond_luck"]
    assert gain["value"] > 0.05 and gain["ci95"][0] > 0, "the best of nine is better than one of them"
    assert abs(left["value"]) < 0.01 and left["ci95"][0] < 0 < left["ci95"][1]
    above = found["gains"]["above_noise"]
    assert above["layers"]["value"] < 0.12
    assert above["beyond_luck"]["ci95"][0] < 0 < above["beyond_luck"]["ci95"][1]


def test_targets_that_need_another_layer_are_found_with_their_kind():
    found = noisy_rows(0.3)

    assert found["gains"]["beyond_luck"]["ci95"][0] > 0.05
    kinds = found["kinds"]
    assert kinds["implicit"]["beyond_luck"]["ci95"][0] > 0.15
    assert kinds["implicit"]["above_noise"]["layers"]["value"] > 0.8
    assert kinds["explicit"]["beyond_luck"]["ci95"][0] < 0 < kinds["explicit"]["beyond_luck"]["ci95"][1]
    assert kinds["implicit"]["expressions"] == kinds["implicit"]["layered"] == 90
    assert found["best"][0] > 80


def test_of_several_rates_the_luckiest_is_the_null():
    rows = [layer_row([70, 50], item=item) for item in range(3)]
    weak, strong = ([row(iou, iou, 100)] for iou in (52, 64))
    rows = [replace(one, redraws={"0.1": weak, "0.4": strong}) for one in rows]
    found = summarise(LayerColumns.of(rows), bootstrap=0)
    assert found["rate"] == "0.4" and found["rates"] == {"0.1": pytest.approx(0.02), "0.4": pytest.approx(0.14)}
    assert found["gains"]["beyond_luck"]["value"] == pytest.approx(0.06)


def test_expressions_without_a_target_or_a_mask_do_not_depend_on_the_layer():
    none = LayerRow(SPLIT, "given", ("explicit", "none"), [row(0, 9, 0), row(0, 9, 0)], redraws={"0.2": [row(0, 9, 0)]})
    rejected = layer_row([80, 10], [90], present=False, item=1)
    found = summarise(LayerColumns.of([none, rejected, layer_row([80, 50], [50], item=2)]), bootstrap=0)
    assert (found["expressions"], found["layered"]) == (3, 1)
    assert found["gains"]["layers"]["value"] == pytest.approx(0.3)
    assert found["scores"]["best layer"]["gIoU"]["value"] == pytest.approx(0.8 / 3)
    assert found["kinds"]["none"]["layers"]["value"] is None


def test_a_system_without_layers_has_the_last_alone():
    found = summarise(LayerColumns.of([layer_row([40]), layer_row([60], item=1)]), bootstrap=100)
    assert list(found["scores"]) == ["last"] and found["scores"]["last"]["gIoU"]["value"] == pytest.approx(0.5)
    assert found["differences"] == {} and "gains" not in found and found["rate"] is None


def test_questions_with_many_targets_are_scored_over_their_pairs():
    layers = [question([[50, 0], [0, 20]], [50, 20], [100, 100]), question([[50, 0], [0, 40]], [50, 40], [100, 100])]
    rows = [LayerRow("MultiReasonSeg|val", "generated", ("implicit", "positive", "multi"), layers[::-1])]
    found = summarise(LayerColumns.of(rows), bootstrap=0)
    assert found["scores"]["layer 0"]["gIoU"]["value"] == pytest.approx(0.45)
    assert found["scores"]["last"]["gIoU"]["value"] == pytest.approx(0.35)
    assert found["differences"]["best layer - last"]["value"] == pytest.approx(0.1)
    again = LayerRow.from_line(rows[0].to_line(), "here")
    assert again == rows[0]


def test_the_share_of_maps_that_are_highest_on_their_target_is_counted_for_each_side_over_targets():
    two = {"image tokens": [[0, 1, 1], [0, 0, 1]], "mask decoder": [[1, 0, 0], [0, 0, 0]]}
    rows = [
        replace(layer_row([80, 10, 50], greedy=0), points=two),
        replace(layer_row([80, 10, 50], greedy=0, item=1), points={"image tokens": [[1, 0, 1]]}),
        layer_row([10, 20, 50], greedy=2, item=2),
    ]
    assert [LayerRow.from_line(one.to_line(), "here") for one in rows] == rows
    pointing = summarise(LayerColumns.of(rows), bootstrap=30)["pointing"]
    values = {side: [one["value"] for one in layers.values()] for side, layers in pointing.items()}
    assert values == {"image tokens": pytest.approx([1 / 3, 1 / 3, 1]), "mask decoder": pytest.approx([0.5, 0, 0])}
    assert pointing["image tokens"]["layer 2"]["ci95"] == [1, 1]
    assert "pointing" not in summarise(LayerColumns.of(rows[2:]), bootstrap=0)


def test_rows_return_from_their_file(tmp_path):
    rows = [layer_row([80, 10, 50], [40, 60], greedy=0), layer_row([10, 20, 50], [70, 30], greedy=2, item=1)]
    (tmp_path / "rows.jsonl").write_text("".join(one.to_line() for one in rows))
    assert list(read_layer_rows(tmp_path / "rows.jsonl")) == rows
    found = summarise_rows(tmp_path / "rows.jsonl", bootstrap=50, seed=3)
    assert found == {SPLIT: {"given": summarise(LayerColumns.of(rows), bootstrap=50, seed=3)}}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "change",
    [
        *({"layers": [[1]]}, {"layers": [[101, 100]]}, {"layers": "no"}, {"redraws": []}, {"split": None}),
        *({"kinds": [3]}, {"points": {"behind": [[1, 0]]}}, {"points": {"mask decoder": [[1]]}}),
        {"points": {"mask decoder": [[1, 2]]}},
    ],
)
def test_a_damaged_row_is_refused_with_its_line(tmp_path, change):
    good = layer_row([80, 50], [60]).to_line()
    (tmp_path / "rows.jsonl").write_text(good + json.dumps(json.loads(good) | change) + "\n")
    with pytest.raises(UserError, match="rows.jsonl, line 2 is not a row of an audit"):
        list(read_layer_rows(tmp_path / "rows.jsonl"))
