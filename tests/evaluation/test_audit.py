"""The audit: every layer's masks are those that eval.py has with that layer, and its numbers follow from its rows."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from dataloaders.batching.collate import Collator
from evaluation.audit import main
from evaluation.auditing import LayerMeasure, draw_case, layer_rows_path
from evaluation.layer_analysis import decoder_maps, layer_analysis, sample_of, target_states
from evaluation.questions import Protocol
from evaluation.running import Effort, evaluate
from groundscore.errors import UserError
from groundscore.scoring.counts import row_iou
from groundscore.scoring.layer_rows import LayerRow, read_layer_rows
from groundscore.scoring.layers import summarise_rows
from tests.axe import complaints
from tests.dashboard.conftest import browser  # noqa: F401
from tests.evaluation.balls import item_of, muse_item
from tests.tiny import tiny_model, write_answer

ITEMS = [item_of(0, 1, ignored=True), item_of(1, 3), item_of(2, 2, empty=1, dataset="grefcoco")]
AROUND = replace(item_of(1, 1), masks=item_of(1, 1).masks == 0)
SEED = 1  # whose layers draw different masks
MUSE = [muse_item(0, 2, 1), muse_item(1, 3)]


def fresh(system="UGround", answer="Sure, [SEG].", **settings):
    """A tiny model that gives every prompt the same answer."""
    model, processor = tiny_model(system, **settings)
    write_answer(model, processor.tokenizer.encode(answer, bos=False))
    return model.eval(), processor


def audited(answer, items=ITEMS, *, spec="balls|val", rates=(0.2,), seed=0, images=8, made=fresh, **options):
    protocol = Protocol(answer, max_new_tokens=16, **options)
    measure = LayerMeasure(spec, rates, seed)
    outcome = evaluate(
        *made(), spec, "nowhere", protocol, items=items, effort=Effort(images=images), measure=measure
    )  # fmt: skip
    return outcome, [LayerRow.from_line(line["row"], "row") for line in outcome.predictions]


def scored(answer, layer, items=ITEMS, *, spec="balls|val", made=fresh):
    protocol = Protocol(answer, layer=layer, max_new_tokens=16)
    return evaluate(*made(), spec, "nowhere", protocol, items=items).rows


def two_masks(**settings):
    return fresh(answer="A [SEG] and [SEG].", **settings)


@pytest.mark.parametrize("answer", ["given", "generated"])
@pytest.mark.parametrize(
    ("items", "spec", "made"),
    [(ITEMS, "balls|val", fresh), (MUSE, "MultiReasonSeg|val", fresh), (ITEMS, "b|v", two_masks)],
)
def test_every_layer_has_the_counts_that_eval_has_with_it(answer, items, spec, made):
    outcome, rows = audited(answer, items, spec=spec, made=made)
    depth = made()[0].config.num_layers
    assert len(rows) == sum(len(item.expressions) for item in items)
    for layer in range(depth):
        assert [row.layers[layer] for row in rows] == scored(answer, layer, items, spec=spec, made=made)
    greedy = scored(answer, "greedy", items, spec=spec, made=made)
    assert [row.greedy for row in rows] == outcome.rows == greedy
    for row in rows:
        assert row.chosen == [int(np.argmax(each)) for each in row.probabilities]
        if len(row.chosen) == 1:
            assert row.greedy == row.layers[row.chosen[0]]
        assert len(row.redraws["0.2"]) == depth - 1
        assert all(sum(each) == pytest.approx(1, abs=1e-4) for each in row.probabilities)
    assert [row.kinds for row in rows] == [
        item.query_kinds(index) for item in items for index in range(len(item.expressions))
    ]


def test_redraws_are_masks_of_the_last_layer_with_dropout_and_depend_on_the_seed_alone():
    rows = audited("given", images=8)[1]
    for row, alone in zip(rows, audited("given", images=1)[1], strict=True):  # equal but for the last bits of logits
        areas, others = ([one.predicted_area for one in each.redraws["0.2"]] for each in (row, alone))
        np.testing.assert_allclose(areas, others, atol=6)
    assert audited("given", seed=1)[1] != rows
    (nothing,) = {row.last == one for row in audited("given", rates=(1e-6,))[1] for one in row.redraws["1e-06"]}
    assert nothing, "without dropout a redraw is the last layer's mask"
    assert any(row.last != one for row in rows for one in row.redraws["0.2"])


def test_an_answer_that_names_nothing_has_no_mask_at_any_layer():
    _, rows = audited("generated", made=lambda: fresh(answer="They are near."))
    for row in rows:
        assert {one.predicted_area for one in row.layers} == {0} and not row.last.present and row.chosen == []
        assert len(row.redraws["0.2"]) == len(row.layers) - 1


@pytest.mark.parametrize("items", [[item_of(0, 1), item_of(2, 1, empty=0), AROUND], MUSE])
def test_a_map_points_where_it_is_highest_and_hits_what_the_expression_names(items):
    _, rows = audited(
        "given", items, spec="MultiReasonSeg|val" if items is MUSE else "b|v", images=1, expressions="single"
    )
    model, processor = fresh()
    collate = Collator(processor, packed=True, max_length=None, check_masks=False)
    expected = []
    for item in items:
        for number, masks in enumerate(item.target_masks or item.masks[:, None]):
            truth = masks.any(0).reshape(-1)
            expected.append({})
            if truth.any():
                analysis = layer_analysis(model, collate([sample_of(item, [number])]), both_sides=True)
                for side, maps in {"image tokens": analysis.maps, "mask decoder": analysis.decoder_maps}.items():
                    pixels = maps[0].flatten(2).argmax(2).numpy()
                    expected[-1][side] = truth[pixels].astype(int).tolist()
    assert [row.points for row in rows] == expected
    hits = {hit for hits in expected for of_targets in hits.values() for target in of_targets for hit in target}
    assert items is MUSE or hits == {0, 1}


def test_the_checkpoint_s_own_choice_is_what_the_outcome_counts():
    legacy, rows = audited("given", made=lambda: fresh(eval_legacy=True))
    assert legacy.rows == [row.last for row in rows] and any(row.greedy != row.last for row in rows)
    _, first = audited("given", made=lambda: fresh(mode=1))
    assert all(row.greedy is None and row.probabilities == [] for row in first)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["given", "generated"])
def made(request, data, tmp_path_factory):
    """A page about a tiny model, and its command."""
    page = tmp_path_factory.mktemp("audit") / "page.html"
    splits = "ReasonSeg|val||grefcoco|unc|val"
    command = [
        "--version",
        "some/model",
        "--dataset_dir",
        str(data),
        "--val_dataset",
        splits,
        "--answer",
        request.param,
    ]
    command += ["--output", str(page), "--bootstrap", "40", "--cases", "2", "--redraw_rates", "0.1,0.3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.auditing.load_flagged_model", lambda flags, rank: fresh(seed=SEED))
        patch.setattr("evaluation.auditing.weights_hash", lambda model: "0" * 64)  # its head has no weights
        assert main([*command, "--max_new_tokens", "16", "--selected_on", "ReasonSeg|val"]) == 0
    return page, command


def by_hand(lines, name):
    """gIoU over raw lines of the file, in plain numbers."""
    total = 0.0
    for line in lines:
        target, present = line["target_area"], line["present"]

        def iou(counts, target=target, present=present):
            intersection, union = counts if present else (0, target)
            return intersection / union if union else 1.0

        layers = [iou(one) for one in line["layers"]]
        redraws = {rate: [iou(one) for one in some] for rate, some in line["redraws"].items()}
        total += {
            "last": layers[-1],
            "best layer": max(layers),
            "layer 1": layers[1],
            "greedy": iou(line["greedy"]),
            "best redraw": max(layers[-1], *redraws[name.partition("/")[2] or "0.1"]),
        }[name.partition("/")[0]]
    return total / len(lines)


def test_the_numbers_of_the_page_follow_from_the_rows_beside_it(made):
    page, _ = made
    report = json.loads(page.with_suffix(".json").read_text())
    rows = layer_rows_path(page.with_suffix(".json"))
    assert summarise_rows(rows, bootstrap=40, seed=0) == report["audit"]
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for split, by_answer in report["audit"].items():
        for answer, found in by_answer.items():
            some = [line for line in lines if (line["split"], line["protocol"]) == (split, answer)]
            assert len(some) == found["expressions"]
            for name in ("last", "layer 1", "greedy", "best layer"):
                assert found["scores"][name]["gIoU"]["value"] == pytest.approx(by_hand(some, name))
            luck = by_hand(some, f"best redraw/{found['rate']}")
            assert found["scores"]["best redraw"]["gIoU"]["value"] == pytest.approx(luck)
            left = found["differences"]["best layer - best redraw"]["value"]
            assert left == pytest.approx(by_hand(some, "best layer") - luck)
            assert report["splits"][split]["gIoU"] == pytest.approx(by_hand(some, "greedy"))
    assert any(row_iou(row.last) < max(map(row_iou, row.layers)) for row in read_layer_rows(rows)), "layers differ"


def test_the_page_says_what_it_is_and_needs_nothing_else(made):
    page, command = made
    text = page.read_text()
    assert "selected on this split" in text and "<dd>ReasonSeg|val</dd>" in text
    assert "python -m evaluation.audit --version" in text and "best redraw of the last layer" in text
    assert text.count("<article") == 4 and "similarity to SAM&#x27;s embedding" in text.replace("'", "&#x27;")
    assert not re.search(r"(?:src|href)=\"(?!data:)", text) and "<script" not in text
    report = json.loads(page.with_suffix(".json").read_text())
    (found,) = report["audit"]["ReasonSeg|val"].values()
    value = found["scores"]["last"]["gIoU"]["value"]
    assert f"{100 * value:.1f} %" in text


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_has_nothing_to_report_about_the_page_which_fits_the_window(made, browser, width):  # noqa: F811
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme="dark" if width < 400 else "light")
    page.goto(made[0].as_uri())

    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert complaints(page) == []
    page.close()


def test_an_audit_can_be_made_again_but_replaces_nothing_else(made, tmp_path):
    _, command = made
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match="is not a report"):
        main([*command, "--output", str(tmp_path / "other.html")])
    for flags, message in (
        (["--layer", "last"], "--layer: an audit has every layer"),
        (["--output", str(tmp_path / "a.json")], "name a .html file"),
        (["--redraw_rates", "0.1,2"], "rates between 0 and 1"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            main([*command, *flags])


@pytest.mark.parametrize("system", ["LISA", "READ", "PixelLM"])
def test_systems_without_a_choice_are_audited_at_the_last_layer(system, monkeypatch, data, tmp_path):
    settings = {} if system == "PixelLM" else {"pad_train_clip_images": True}
    monkeypatch.setattr("evaluation.auditing.load_flagged_model", lambda flags, rank: tiny_model(system, **settings))
    page = tmp_path / "page.html"
    command = ["--version", "some/checkpoint", "--dataset_dir", str(data), "--val_dataset", "ReasonSeg|val"]
    assert main([*command, "--output", str(page), "--answer", "given", "--bootstrap", "0", "--cases", "1"]) == 0
    text = page.read_text()
    assert f"{system} always uses the last layer: there are no layers to compare." in text and "<article" in text
    assert ('embedding"' in text) == (system != "PixelLM")
    (row, _) = read_layer_rows(layer_rows_path(page.with_suffix(".json")))
    assert len(row.layers) == 1 and row.redraws == {} and row.greedy is None


def test_a_question_with_many_targets_is_drawn_at_its_first():
    model, processor = tiny_model(pad_train_clip_images=True)
    item = muse_item(0, 1, 2)
    case = draw_case(model, processor, item, 1, "why")
    assert len(case.layers) == model.config.num_layers and (case.truth == (item.target_masks[1][0] != 0)).all()
    for layer in case.layers:
        assert layer.similarity.shape == layer.decoder_map.shape == layer.mask.shape == item.image.shape[:2]
        assert 0 <= layer.iou <= 1 and 0 <= layer.probability <= 1


def test_maps_on_the_decoder_s_side_are_products_with_the_image_embedding():
    from dataloaders.batching.collate import Collator
    from tests.tiny import tiny_samples

    model, processor = tiny_model(pad_train_clip_images=True)
    batch = Collator(processor, max_length=None)(tiny_samples())
    states = target_states(model, batch)
    features = model.decoder_features(batch, states.images)
    with torch.no_grad():
        first, _ = decoder_maps(model, batch, states, features, 2)
        text = model.text_hidden_fcs(states.seg[:1, 0, 2])
        products = (features[0][0] * text[0][:, None, None]).sum(0)
    assert first.shape == (len(batch.masks[0]), *batch.original_sizes[0])
    # An image of 40 × 60 fills the upper two thirds of the grid; map and products agree on where they are large.
    cells = torch.nn.functional.interpolate(first[:1, None], (3, 4), mode="area")[0, 0]
    assert torch.corrcoef(torch.stack([cells.flatten(), products[:3].flatten()]))[0, 1] > 0.8
