"""Predictions as people have them: every form gives the same counts, and what is wrong in one is named."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from groundscore.benchmark import load, load_all
from groundscore.errors import UserError
from groundscore.exchange import FORMATS
from groundscore.exchange.addresses import Addresses, resolve_names
from groundscore.exchange.counting import count_predictions, format_of
from groundscore.scoring.masks import encode_mask
from tests.groundscore.exchange.forms import (
    as_coco,
    as_jsonl,
    as_lmms_eval,
    as_npz,
    as_png,
    as_sam3_agent,
    noisy_predictions,
)

REFER = "refcoco|unc|val"
GRES = "grefcoco|unc|val"
REASON = "ReasonSeg|val"
MUSE = "MultiReasonSeg|val"
FORMS = {
    "jsonl": as_jsonl,
    "coco": as_coco,
    "png": as_png,
    "npz": as_npz,
    "sam3_agent": as_sam3_agent,
    "lmms_eval": as_lmms_eval,
}
SUFFIX = {"jsonl": ".jsonl", "coco": ".json", "npz": ".npz"}


def rows_of(path, *splits, **options):
    scorers = count_predictions(path, {split.spec: split for split in splits}, **options)
    return {spec: plain(scorer.counts().rows) for spec, scorer in scorers.items()}


def plain(rows):
    """The counts without what the model wrote, which not every form holds."""
    return [{key: value for key, value in row.to_dict().items() if key != "answer"} for row in rows]


@pytest.fixture(scope="module")
def benchmarks(world):
    return load_all([REFER, GRES, REASON, MUSE], world)


@pytest.fixture(scope="module")
def counted(benchmarks, tmp_path_factory):
    """The rows of the predictions that every form holds, from our own files."""
    folder = tmp_path_factory.mktemp("counted")
    return {
        spec: rows_of(as_jsonl(folder / f"{number}.jsonl", split), split)[spec]
        for number, (spec, split) in enumerate(benchmarks.items())
    }


@pytest.mark.parametrize("spec", [REFER, GRES, REASON, MUSE])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised_and_gives_the_same_counts(benchmarks, counted, tmp_path, form, spec):
    path = FORMS[form](tmp_path / f"mine{SUFFIX.get(form, '')}", benchmarks[spec])

    assert format_of(path).name == form
    assert rows_of(path, benchmarks[spec])[spec] == counted[spec]


def test_each_format_has_a_name_and_a_help(benchmarks):
    assert [one.name for one in FORMATS] == [
        "sam3_agent",
        "vision_reasoner",
        "lmms_eval",
        "coco",
        "npz",
        "png",
        "jsonl",
    ]
    assert all(one.help for one in FORMATS)


@pytest.mark.parametrize("key", ["sent_id", "file_name"])
def test_coco_entries_name_expressions_by_any_of_the_known_keys(benchmarks, counted, tmp_path, key):
    path = as_coco(tmp_path / "mine.json", benchmarks[REFER], key)

    assert rows_of(path, benchmarks[REFER])[REFER] == counted[REFER]


def test_coco_entries_may_name_image_index_and_number_of_a_question(benchmarks, counted, tmp_path):
    entries = []
    for item, number, masks in noisy_predictions(benchmarks[MUSE]):
        about = {"file_name": item.path_below(benchmarks[MUSE].root), "index": item.index, "expression": number}
        entries += [about | {"segmentation": encode_mask(mask)} for mask in masks] or [about | {"segmentation": None}]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(entries))

    assert rows_of(path, benchmarks[MUSE])[MUSE] == counted[MUSE]
    path.write_text(json.dumps([{**entries[0], "index": 999}]))
    with pytest.raises(UserError, match="has no image"):
        rows_of(path, benchmarks[MUSE])


def test_entries_of_several_splits_are_told_apart_by_their_ids_or_by_the_key_split(benchmarks, counted, tmp_path):
    entries = []
    for spec in (REFER, REASON):
        entries += json.loads(as_coco(tmp_path / "one.json", benchmarks[spec]).read_text())
    path = tmp_path / "mine.json"
    for split in ({}, {"split": "val"}, {"split": []}):
        path.write_text(json.dumps([entry | split for entry in entries]))
        assert rows_of(path, benchmarks[REFER], benchmarks[REASON]) == {REFER: counted[REFER], REASON: counted[REASON]}

    path.write_text(json.dumps([{"sent_id": benchmarks[REFER][0].sentence_ids[0], "segmentation": None}]))
    multi = load("multirefcoco|unc|val", benchmarks[REFER].root)
    with pytest.raises(UserError, match="entry 0 may belong to refcoco.unc.val or multirefcoco.unc.val; add the key"):
        rows_of(path, benchmarks[REFER], multi)


def test_a_prediction_for_a_ref_stands_for_all_its_sentences(benchmarks, tmp_path):
    split = benchmarks[REFER]
    refs = {}
    for item in split:
        for index, ref in enumerate(item.ref_ids):
            refs.setdefault(ref, {"ref_id": ref, "segmentation": as_json(item.targets[index][0])})
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(list(refs.values())))

    rows = rows_of(path, split)[REFER]

    assert len(refs) < len(rows)
    assert all(row["intersection"] == row["union"] > 0 for row in rows)


def as_json(rle):
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_grey_masks_may_have_three_channels_and_coloured_ones_are_refused(benchmarks, counted, tmp_path):
    folder = as_png(tmp_path / "mine", benchmarks[REASON])
    for file in folder.iterdir():
        Image.open(file).convert("RGB").save(file)
    assert rows_of(folder, benchmarks[REASON])[REASON] == counted[REASON]

    first = min(folder.iterdir())
    Image.new("RGB", Image.open(first).size, (255, 0, 0)).save(first)
    with pytest.raises(UserError, match=f"mask .*{first.name} should have one channel, it is uint8"):
        rows_of(folder, benchmarks[REASON])


def test_names_are_known_beyond_a_limit(benchmarks, counted, tmp_path):
    folder = as_png(tmp_path / "mine", benchmarks[REASON])
    first = load(REASON, benchmarks[REASON].root, limit=1)

    assert rows_of(folder, first)[REASON] == counted[REASON][:1]


def test_results_of_the_agent_may_have_other_names_and_whole_rle(benchmarks, counted, tmp_path):
    folder = as_sam3_agent(tmp_path / "mine", benchmarks[REFER])
    for number, file in enumerate(sorted(folder.iterdir())):
        content = json.loads(file.read_text())
        size = [content["orig_img_h"], content["orig_img_w"]]
        content["pred_masks"] = [{"size": size, "counts": counts} for counts in content["pred_masks"]]
        del content["image_path"]
        file.unlink()
        (folder / f"{number}.json").write_text(json.dumps(content))

    assert rows_of(folder, benchmarks[REFER], format="sam3_agent")[REFER] == counted[REFER]


def test_several_splits_are_folders_of_masks(benchmarks, counted, tmp_path):
    as_png(tmp_path / "mine" / "refcoco_unc_val", benchmarks[REFER])
    as_png(tmp_path / "mine" / "ReasonSeg_val", benchmarks[REASON])

    rows = rows_of(tmp_path / "mine", benchmarks[REFER], benchmarks[REASON])

    assert rows == {REFER: counted[REFER], REASON: counted[REASON]}


def test_counts_of_vision_reasoner_are_scored_as_its_script_scores_them(benchmarks, tmp_path):
    entries, ious, totals = [], [], np.zeros(2, int)
    for item in benchmarks[REASON]:
        truth = item.masks[0].astype(bool) | (False if item.ignore is None else item.ignore)
        mask = np.roll(truth, 3, axis=1)
        intersection, union = int((mask & truth).sum()), int((mask | truth).sum())
        ious.append(intersection / union)
        totals += [intersection, union]
        name = item.image_path.stem
        entries.append({"image_id": name, "ann_id": name, "think": "…", "intersection": intersection, "union": union})
    (tmp_path / "results").mkdir()
    for part in range(2):
        (tmp_path / "results" / f"output_{part}.json").write_text(json.dumps(entries[part::2]))

    scorers = count_predictions(tmp_path / "results", {REASON: benchmarks[REASON]})
    scores = scorers[REASON].report(bootstrap=0).splits[REASON]

    assert format_of(tmp_path / "results").name == "vision_reasoner"
    assert scores["gIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert scores["cIoU"] == totals[0] / totals[1]


def test_counts_of_objects_stand_for_all_their_expressions_or_for_one_each(benchmarks, tmp_path):
    by_object, by_expression = {}, []
    for item in benchmarks[REFER]:
        for number, (ids, mask) in enumerate(zip(item.annotation_ids, item.masks, strict=True)):
            area = int(mask.sum())
            entry = {"image_id": item.image_path.name, "ann_id": str(ids[0]), "think": "…"}
            by_object[ids[0]] = entry | {"intersection": area // 2, "union": area}
            by_expression.append(entry | {"intersection": area // (1 + number), "union": area})
    scores = {}
    for name, entries in (("object", list(by_object.values())), ("expression", by_expression)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "output_0.json").write_text(json.dumps(entries))
        scorer = count_predictions(tmp_path / name, {REFER: benchmarks[REFER]})[REFER]
        scores[name] = scorer.report(bootstrap=0, unit=name).splits[REFER]

    assert scores["object"]["gIoU"] == pytest.approx(
        np.mean([e["intersection"] / e["union"] for e in by_object.values()])
    )
    ious = [e["intersection"] / e["union"] for e in by_expression]
    assert scores["expression"]["gIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    (tmp_path / "expression" / "output_0.json").write_text(json.dumps([*by_expression, by_expression[0]]))
    with pytest.raises(UserError, match="entries are about the .* expressions of refcoco.unc.val"):
        count_predictions(tmp_path / "expression", {REFER: benchmarks[REFER]})


def test_the_same_result_twice_is_one_and_another_is_refused(benchmarks, counted, tmp_path):
    folder = as_sam3_agent(tmp_path / "mine", benchmarks[REASON])
    first = min(folder.iterdir())
    again = first.with_name(f"a_{first.name}")
    again.write_text(first.read_text())
    assert rows_of(folder, benchmarks[REASON])[REASON] == counted[REASON]

    content = json.loads(first.read_text())
    other = [] if content["pred_masks"] else [as_json(next(iter(benchmarks[REASON])).targets[0][0])]
    again.write_text(json.dumps(content | {"pred_masks": other}))
    with pytest.raises(UserError, match="is about the same expression as"):
        rows_of(folder, benchmarks[REASON])


def test_logits_in_an_archive_need_a_threshold(benchmarks, counted, tmp_path):
    split = benchmarks[REFER]
    logits = {item.expression_ids[n]: np.where(masks.any(0), 1.5, -1.5) for item, n, masks in noisy_predictions(split)}
    np.savez_compressed(tmp_path / "mine.npz", **logits)

    assert rows_of(tmp_path / "mine.npz", split, threshold=0.0)[REFER] == counted[REFER]
    with pytest.raises(UserError, match="has fractions.*threshold"):
        rows_of(tmp_path / "mine.npz", split)


def test_an_archive_may_hold_ids_and_a_stack_of_masks(benchmarks, counted, tmp_path):
    first = load(REFER, benchmarks[REFER].root, limit=1)
    ids, masks = zip(
        *((item.expression_ids[n], masks.any(0)) for item, n, masks in noisy_predictions(first)), strict=True
    )
    np.savez_compressed(tmp_path / "mine.npz", ids=np.array(ids), masks=np.stack(masks))

    assert rows_of(tmp_path / "mine.npz", first)[REFER] == counted[REFER][: len(ids)]


# --- what is wrong is named -------------------------------------------------------------------------------------------


def test_python_objects_in_an_archive_are_not_unpickled(benchmarks, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    split = benchmarks[REFER]
    arrays = {item.expression_ids[n]: masks.any(0) for item, n, masks in noisy_predictions(split)}
    arrays[next(iter(arrays))] = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "mine.npz", **arrays)

    with pytest.raises(UserError, match="holds Python objects, which are not read"):
        rows_of(tmp_path / "mine.npz", split)
    assert not (tmp_path / "trapped").exists()


def test_a_small_archive_cannot_unpack_to_a_large_one(benchmarks, tmp_path, monkeypatch):
    monkeypatch.setenv("UGROUND_MAX_FILE_MB", "8")
    np.savez_compressed(tmp_path / "mine.npz", bomb=np.zeros((2000, 1000), bool))

    with pytest.raises(UserError, match="'bomb.npy' has 1 MB unpacked, more than 1; write bool arrays"):
        rows_of(tmp_path / "mine.npz", benchmarks[REFER])


def test_a_link_out_of_a_folder_of_masks_is_refused(benchmarks, tmp_path):
    folder = as_png(tmp_path / "mine", benchmarks[REASON])
    first = min(folder.iterdir())
    first.rename(tmp_path / "elsewhere.png")
    first.symlink_to(tmp_path / "elsewhere.png")

    with pytest.raises(UserError, match=f"{first.name} is a link to a file outside"):
        rows_of(folder, benchmarks[REASON])


def test_unknown_and_missing_names_of_masks_are_named(benchmarks, tmp_path):
    folder = as_png(tmp_path / "mine", benchmarks[REASON])
    first = min(folder.iterdir())
    stranger = first.rename(folder / "stranger.png")

    with pytest.raises(UserError, match="1 of .* names mean no expression of ReasonSeg.val: stranger; .*export-items"):
        rows_of(folder, benchmarks[REASON])
    stranger.unlink()
    with pytest.raises(UserError, match=f"no prediction: .*{first.stem.rpartition('_')[0]}"):
        rows_of(folder, benchmarks[REASON])


def test_names_that_may_be_ids_of_two_kinds_are_ambiguous(benchmarks):
    addresses = Addresses(benchmarks[REFER])
    names = [str(number) for number in range(len(addresses.all))]
    addresses._by_kind["sentence"] = {name: [one] for name, one in zip(names, reversed(addresses.all), strict=True)}

    with pytest.raises(UserError, match="ambiguous: they may be of the kind sentence or number.*--ids says which"):
        resolve_names(names, addresses, "masks", None)
    assert resolve_names(names, addresses, "masks", "number")["1"] == [addresses.all[1]]
    assert resolve_names(names, addresses, "masks", "sentence")["1"] == [addresses.all[-2]]


def test_names_by_sentence_are_found_out(benchmarks, counted, tmp_path):
    sentences = {str(item.sentence_ids[n]): masks.any(0) for item, n, masks in noisy_predictions(benchmarks[REFER])}
    np.savez_compressed(tmp_path / "mine.npz", **sentences)

    assert rows_of(tmp_path / "mine.npz", benchmarks[REFER])[REFER] == counted[REFER]


@pytest.mark.parametrize(
    "entry,message",
    [
        ({"segmentation": None}, "entry 0 does not say which expression it is about; it needs one of expression_id"),
        ({"sentid": 3, "segmentation": None}, "and has 'sentid', 'segmentation'. Did you mean 'sent_id'"),
        ({"sent_id": 10**9, "segmentation": None}, "entry 0: refcoco.unc.val has no expression of sent_id 1000000000"),
        ({"file_name": "nowhere.jpg", "segmentation": None}, "entry 0: refcoco.unc.val has no image 'nowhere.jpg'"),
        ({"sent_id": 1}, "entry 0 has no 'segmentation'.*'sent_id'"),
    ],
)
def test_coco_entries_that_name_nothing_are_named(benchmarks, tmp_path, entry, message):
    (tmp_path / "mine.json").write_text(json.dumps([entry]))

    with pytest.raises(UserError, match=message):
        rows_of(tmp_path / "mine.json", benchmarks[REFER])


def test_an_image_with_several_expressions_does_not_say_which(benchmarks, tmp_path):
    item = next(item for item in benchmarks[REFER] if len(item.expressions) > 1)
    entry = {"file_name": item.image_path.name, "segmentation": None}
    (tmp_path / "mine.json").write_text(json.dumps([entry]))
    with pytest.raises(UserError, match=f"asks {len(item.expressions)} expressions about .*does not say which"):
        rows_of(tmp_path / "mine.json", benchmarks[REFER])

    (tmp_path / "mine.json").write_text(json.dumps([entry | {"text": "an elephant in a hat"}]))
    with pytest.raises(UserError, match="does not ask 'an elephant in a hat' about"):
        rows_of(tmp_path / "mine.json", benchmarks[REFER])


def test_keys_that_are_not_read_are_named(benchmarks, tmp_path, caplog):
    path = as_coco(tmp_path / "mine.json", benchmarks[REASON])
    entries = json.loads(path.read_text())
    entries[1]["presnt"] = False
    path.write_text(json.dumps(entries))

    rows_of(path, benchmarks[REASON])

    assert "entry 1: the key 'presnt' is not read. Did you mean 'present'?" in caplog.text


def test_counts_against_another_ground_truth_are_refused(benchmarks, tmp_path):
    item = next(iter(benchmarks[REASON]))
    entry = {"image_id": item.image_path.stem, "ann_id": item.image_path.stem, "intersection": 1, "union": 2}
    (tmp_path / "output_0.json").write_text(json.dumps([entry]))

    with pytest.raises(UserError, match="counted against another ground truth|no prediction"):
        rows_of(tmp_path, benchmarks[REASON])


@pytest.mark.parametrize("form", ["npz", "coco", "sam3_agent", "lmms_eval"])
def test_damaged_files_end_in_one_line(benchmarks, tmp_path, form):
    rng = np.random.default_rng(0)
    path = FORMS[form](tmp_path / f"mine{SUFFIX.get(form, '')}", benchmarks[REASON])
    files = [path] if path.is_file() else sorted(path.iterdir())
    for _ in range(60):
        file = files[rng.integers(len(files))]
        good = file.read_bytes()
        bad = bytearray(good)
        for place in rng.integers(len(bad), size=rng.integers(1, 9)):
            bad[place] = rng.integers(256)
        file.write_bytes(bytes(bad[: rng.integers(1, len(bad))] if rng.random() < 0.2 else bad))
        with contextlib.suppress(UserError):
            rows_of(path, benchmarks[REASON], format=form)
        file.write_bytes(good)


def test_an_unknown_format_or_file_names_those_that_are_known(benchmarks, tmp_path):
    with pytest.raises(UserError, match="unknown format of predictions 'cooc'.*Did you mean 'coco'"):
        rows_of(tmp_path, benchmarks[REASON], format="cooc")
    with pytest.raises(UserError, match="is missing"):
        rows_of(tmp_path / "nothing", benchmarks[REASON])
    with pytest.raises(UserError, match="in no format that is recognised.*png: a folder of PNG masks"):
        rows_of(tmp_path, benchmarks[REASON])
