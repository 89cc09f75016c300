"""The scorer: every form of mask counts alike, counts survive their process, nothing is counted twice or never."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

import groundscore
from groundscore.errors import UserError
from groundscore.scoring.masks import encode_mask
from groundscore.scoring.report import read_report, read_rows
from groundscore.scoring.scorer import report_of
from tests.groundscore.scoring.rows import dense_expression_counts, dense_question_counts

SPEC = "refcoco|unc|val"


@pytest.fixture
def benchmark(world):
    return groundscore.load(SPEC, root=world)


def shifted(masks):
    return np.roll(masks, (3, 2), (-2, -1))


def filled(scorer):
    for item in scorer.remaining():
        scorer.add(item, shifted(item.masks))
    return scorer


def values_of(report, spec=SPEC):
    return {name: value for name, value in report.to_dict()["splits"][spec].items() if name != "protocol"}


def test_five_lines_score_a_split(benchmark, tmp_path):
    scorer = benchmark.scorer()
    for item in benchmark:
        scorer.add(item, item.masks)
    report = scorer.report(bootstrap=10)

    assert values_of(report)["gIoU"] == values_of(report)["cIoU"] == 1.0
    assert "refcoco" in str(report) and "100.0" in str(report)
    report.save(tmp_path / "deep" / "report.json")
    assert read_report(tmp_path / "deep" / "report.json")["splits"][SPEC]["images"] == len(benchmark)
    ((_, answer), rows), *_ = read_rows(tmp_path / "deep" / "report.json").items()
    assert answer == "predicted" and len(rows) == values_of(report)["expressions"]


def test_an_item_is_decoded_when_asked_for_and_knows_its_ids_and_questions(benchmark):
    item = benchmark[0]

    assert all(callable(vars(item)[name]) for name in ("image", "masks", "targets"))
    assert item.expression_ids == [f"{item.image_path.stem}_{n}" for n in range(len(item.expressions))]
    assert all(text.strip(".").lower() in prompt for text, prompt in zip(item.expressions, item.prompts))
    assert len(item.sentence_ids) == len(item.ref_ids) == len(item.annotation_ids) == len(item.expressions)
    assert item.image.shape == (*item.size, 3) and item.masks.shape == (len(item.expressions), *item.size)


@pytest.mark.parametrize("spec", [SPEC, "ReasonSeg|val", "MultiReasonSeg|val"])
def test_an_item_goes_to_another_process_undecoded(world, spec):
    item = groundscore.load(spec, root=world)[0]

    copy = pickle.loads(pickle.dumps(item))

    assert callable(vars(copy)["image"]) and callable(vars(copy)["masks"])
    assert (copy.masks == item.masks).all() and (copy.image == item.image).all()


def test_all_forms_of_a_mask_count_alike(benchmark, tmp_path):
    torch = pytest.importorskip("torch")
    item = next(iter(benchmark))
    masks = shifted(item.masks)
    expected = list(zip(*dense_expression_counts(masks, item.masks)))
    paths = []
    for number, mask in enumerate(masks):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(mask * 255).save(paths[-1])
    logits = masks * 6.0 - 3 + np.random.default_rng(0).uniform(-1, 1, masks.shape)
    forms = {
        "bool": masks.astype(bool),
        "0 and 255": masks * np.uint8(255),
        "fractions that are 0 and 1": masks.astype(np.float32),
        "logits": logits,
        "bfloat16 logits of torch": torch.tensor(logits, dtype=torch.bfloat16),
        "RLE": [encode_mask(mask) for mask in masks],
        "paths": paths,
        "texts of paths": list(map(str, paths)),
        "parts": [np.stack([mask * (np.arange(mask.shape[1]) % 2 == n) for n in range(2)]) for mask in masks],
        "a list of parts": [[encode_mask(mask), np.zeros_like(mask)] for mask in masks],
    }
    for name, form in forms.items():
        scorer = benchmark.scorer(threshold=0.0 if "logits" in name else None)
        found = [(row.intersection, row.union, row.predicted_area, row.target_area) for row in scorer.add(item, form)]
        assert found == expected, name


def test_polygons_are_drawn_as_the_annotations_are(data_root):
    benchmark = groundscore.load("refcoco|unc|val", root=data_root)
    scorer = benchmark.scorer()
    scorer.add(benchmark[0], [[[4, 4, 12, 4, 12, 12, 4, 12]], [[16, 8, 28, 8, 28, 20, 16, 20]]])

    assert values_of(scorer.report())["gIoU"] == 1.0


@pytest.mark.parametrize("spec", ["MultiReasonSeg|val", "ReasonSeg|val", "grefcoco|unc|val"])
def test_counts_are_those_of_the_pixels(world, spec):
    benchmark = groundscore.load(spec, root=world)
    rng = np.random.default_rng(0)
    scorer = benchmark.scorer()
    for item in benchmark:
        if item.target_masks is None:
            noise = rng.random(item.masks.shape) < 0.3
            rows = scorer.add(item, noise)
            counts = list(zip(*dense_expression_counts(noise, item.masks, item.ignore)))
            assert [(r.intersection, r.union, r.predicted_area, r.target_area) for r in rows] == counts
            continue
        noise = [rng.random((int(rng.integers(0, 4)), *item.size)) < 0.3 for _ in item.expressions]
        rows = scorer.add(item, [list(masks) for masks in noise])
        for row, masks, targets in zip(rows, noise, item.target_masks):
            found = row.intersections, row.predicted_areas, row.target_areas
            assert found == dense_question_counts(masks, targets)


def test_an_expression_is_accepted_where_its_mask_has_a_pixel_unless_told(world):
    benchmark = groundscore.load("grefcoco|unc|val", root=world)
    item = benchmark[0]
    nothing = [None] * len(item.expressions)
    for masks, present, expected in (
        (item.masks, None, [bool(mask.any()) for mask in item.masks]),
        (nothing, None, [False] * len(nothing)),
        (nothing, [True] * len(nothing), [True] * len(nothing)),
        (item.masks, np.zeros(len(nothing), bool), [False] * len(nothing)),
    ):
        assert [row.present for row in benchmark.scorer().add(item, masks, present)] == expected


def test_a_scorer_goes_on_from_its_file_wherever_it_was_killed(benchmark, tmp_path):
    whole = filled(benchmark.scorer()).report(bootstrap=10)
    path = tmp_path / "night.jsonl"
    with filled(benchmark.scorer(path)):
        pass
    written = path.read_bytes()
    for kept in (0, 7, written.index(b"\n") + 1, len(written) // 2, len(written) - 1, len(written)):
        path.write_bytes(written[:kept])
        with benchmark.scorer(path) as scorer:
            assert len(scorer) < len(benchmark) or kept == len(written)
            filled(scorer)
        assert values_of(scorer.report(bootstrap=10)) == values_of(whole)
        assert path.read_bytes() == written


def test_scorers_of_several_processes_merge(benchmark, tmp_path):
    whole = filled(benchmark.scorer())
    parts = [benchmark.scorer(tmp_path / "0.jsonl"), benchmark.scorer(), benchmark.scorer()]
    for rank, part in enumerate(parts):
        for item in part.remaining(range(rank, len(benchmark), 3)):
            part.add(item, shifted(item.masks))
    parts[1].save(tmp_path / "1.jsonl")

    merged = benchmark.scorer(tmp_path / "all.jsonl")
    merged.merge(tmp_path / "0.jsonl", str(tmp_path / "1.jsonl"), parts[2])

    assert merged.counts().rows == whole.counts().rows
    merged.close()
    assert len(benchmark.scorer(tmp_path / "all.jsonl")) == len(benchmark)
    with pytest.raises(UserError, match=r"is counted in both, here and in .*1\.jsonl"):
        whole.merge(tmp_path / "1.jsonl")


def test_twice_and_never_are_refused_by_name(benchmark):
    scorer, item = benchmark.scorer(), benchmark[1]
    for other in benchmark:
        if other.number != 1:
            scorer.add(other, other.masks)
    with pytest.raises(UserError, match=rf"{benchmark[0].image_path.name} \(item 0\) is counted already"):
        scorer.add(benchmark[0], benchmark[0].masks)
    with pytest.raises(UserError, match=rf"1 of \d+ images are not counted: .*{item.image_path.name} expression 0"):
        scorer.report()


def test_what_cannot_be_counted_says_why(benchmark, world):
    item = next(iter(benchmark))
    masks = item.masks
    other = groundscore.load("ReasonSeg|val", root=world)[0]
    height, width = item.size
    for given, message in (
        (masks[:, :-1], rf"expression 0: the mask is {height - 1} x {width} .*resize it"),
        (masks[:-1], rf"has {len(masks)} expressions, but {len(masks) - 1} masks"),
        (masks * 0.7, "has fractions, from 0 to 0.7; pass threshold=0.0 for logits"),
        ([np.nan * masks[0]] * len(masks), "not numbers"),
        ([{"size": [3, 4], "counts": "0"}] * len(masks), r"expression 0: an RLE for an image of \[3, 4\]"),
        (["nowhere.png"] * len(masks), "nowhere.png"),
        ([5] * len(masks), "expression 0: a mask is a bool array, a COCO RLE"),
        ([masks[0].astype("U1")] * len(masks), "an array of bool or numbers"),
    ):
        with pytest.raises(UserError, match=message):
            benchmark.scorer().add(item, given)
    with pytest.raises(UserError, match=r"is not an item of this benchmark; it is from ReasonSeg\|val"):
        benchmark.scorer().add(other, other.masks)
    with pytest.raises(UserError, match="but 2 present are given"):
        benchmark.scorer().add(item, masks, [True] * 2)


def test_a_file_that_is_not_its_own_is_refused(benchmark, world, tmp_path):
    path = tmp_path / "scores.jsonl"
    filled(benchmark.scorer()).save(path)
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])

    def with_row(**values):
        changed = [row["rows"][0] | values, *row["rows"][1:]]
        return "\n".join([lines[0], json.dumps(row | {"rows": changed}), *lines[2:]]) + "\n"

    for text, message in (
        ("\n".join([lines[0], lines[1], lines[1]]) + "\n", "line 3 is damaged .item 0 is counted already"),
        ("\n".join([lines[0], lines[1][:40], *lines[2:]]) + "\n", "line 2 is damaged"),
        (with_row(union=10**6), r"line 2 is damaged .rows\[0\].union"),
        (with_row(image="other.jpg"), "line 2 is damaged .its rows are not those of item 0"),
        (with_row(exists="yes"), "line 2 is damaged"),
        ("{}\n", "line 1 is damaged"),
        ("not ours at all, and longer than what a scorer writes first" * 9, "line 1 is damaged"),
    ):
        path.write_text(text)
        for read in (benchmark.scorer, benchmark.scorer().merge):
            with pytest.raises(UserError, match=message):
                read(path)
    filled(benchmark.scorer()).save(path)
    for other in (groundscore.load("ReasonSeg|val", root=world), groundscore.load(SPEC, root=world, limit=1)):
        with pytest.raises(UserError, match=r"has the counts of 'refcoco\|unc\|val'"):
            other.scorer(path)
    scorer = benchmark.scorer(path)
    with pytest.raises(UserError, match="in use by another scorer"):
        benchmark.scorer(path)
    scorer.close()


def test_one_report_of_several_splits(benchmark, world):
    other = groundscore.load("ReasonSeg|val", root=world)

    report = report_of({one.spec: filled(one.scorer()) for one in (benchmark, other)}, bootstrap=0, selected_on=SPEC)

    assert list(report.to_dict()["splits"]) == [SPEC, "ReasonSeg|val"]
    assert report.to_dict()["splits"][SPEC]["protocol"]["selected_on"] == SPEC


def test_an_image_that_cannot_be_read_is_left_out_as_in_eval(world, tmp_path):
    import shutil

    shutil.copytree(world, tmp_path / "data")
    benchmark = groundscore.load(SPEC, root=tmp_path / "data", skip_bad_samples=0.5)
    path = benchmark[1].image_path
    path.write_bytes(path.read_bytes()[:300])

    report = filled(benchmark.scorer()).report(bootstrap=0)

    scores = values_of(report)
    assert scores["images"] == len(benchmark) - 1 and scores["left_out"] == 1
    assert path.name in scores["left_out_entries"][0]["reason"] and "NOT THE WHOLE SPLIT" in str(report)
    with pytest.raises(UserError, match=path.name):
        filled(groundscore.load(SPEC, root=tmp_path / "data", skip_bad_samples=0).scorer())
