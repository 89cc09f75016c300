"""A split with a bad entry is scored without it, and nothing that shows its scores keeps silent about that."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import eval as eval_script
from evaluation.questions import Protocol
from evaluation.records import PartialResults
from evaluation.running import Effort, evaluate
from groundscore.annotations.bad_entries import DEFAULT_SHARE, STRICT, Tolerance
from groundscore.errors import UserError
from groundscore.scoring.masks import encode_mask
from groundscore.splits import LeftOut, evaluation_set, read_item, spread_items
from tests.tiny import tiny_model, write_answer

DEFAULT = Tolerance(DEFAULT_SHARE)
SQUARE = [[5, 5, 30, 5, 30, 30, 5, 30]]
MUSE = "MultiReasonSeg|val"


@pytest.fixture(scope="module")
def model():
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("Sure, [SEG].", bos=False))
    return model, processor


def write_muse(root, *, entries: int = 6, bad: int = 3, polygon=([1, 1, 2, 2],)):
    """MUSE of several images; the target of entry `bad` covers no pixel."""
    images = root / "refer_seg/images/mscoco/images/train2014"
    images.mkdir(parents=True, exist_ok=True)
    content = []
    for number in range(entries):
        Image.fromarray(np.full((40, 50, 3), number, np.uint8)).save(images / f"{number}.jpg")
        target = {"category_name": "box", "segmentation": list(polygon) if number == bad else SQUARE}
        content.append(
            {"file_name": f"{number}.jpg", "height": 40, "width": 50, "questions": ["Which?"], "answers": [[target]]}
        )
    path = root / "multi_reason_seg/MultiReasonSeg/MUSE_val.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return root


def run(model, root, tolerance=DEFAULT, **options):
    return evaluate(*model, MUSE, root, Protocol("given"), tolerance=tolerance, **options)


def test_one_bad_entry_costs_only_itself(model, tmp_path):
    root = write_muse(tmp_path)

    outcome = run(model, root)

    assert [row.item for row in outcome.rows] == [0, 1, 2, 4, 5]
    assert outcome.images == 5
    (left_out,) = outcome.left_out
    assert (left_out.item, left_out.index) == (3, 3)
    assert left_out.image == "refer_seg/images/mscoco/images/train2014/3.jpg"
    assert left_out.file.endswith("MUSE_val.json")
    assert left_out.id.startswith("entry 3, question 'Which?', target 0")
    assert "encloses no pixel" in left_out.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_zero_stops_at_the_first(model, tmp_path, workers):
    root = write_muse(tmp_path)

    with pytest.raises(UserError, match=r"MUSE_val.json: entry 3.* encloses no pixel"):
        run(model, root, STRICT, effort=Effort(workers=workers))


def test_processes_that_read_ahead_leave_out_the_same(model, tmp_path):
    root = write_muse(tmp_path)

    alone, ahead = run(model, root), run(model, root, effort=Effort(images=2, workers=2))

    assert (alone.rows, alone.left_out) == (ahead.rows, ahead.left_out)


def test_too_many_bad_entries_stop_and_the_first_are_named(model, tmp_path):
    root = write_muse(tmp_path, entries=6)
    for number in (1, 2):
        (root / f"refer_seg/images/mscoco/images/train2014/{number}.jpg").unlink()

    with pytest.raises(UserError, match=r"more than --skip_bad_samples allows.* The first: .*1.jpg is missing"):
        run(model, root)
    assert run(model, root, Tolerance(0.5)).images == 3


def test_a_killed_evaluation_goes_on_with_what_was_left_out_and_repaired(model, tmp_path):
    root = write_muse(tmp_path / "data")
    whole = run(model, root)
    kept = tmp_path / "kept"

    run(model, root, partial=PartialResults(kept, "x"))
    again = run(model, root, partial=PartialResults(kept, "x"))

    assert again.resumed == 5
    assert (again.rows, again.left_out, again.repaired) == (whole.rows, whole.left_out, whole.repaired)


def test_repairs_are_told_with_their_item_and_resumed(model, tmp_path):
    root = write_muse(tmp_path / "data", bad=2, polygon=([1, 1, 2, 2], [-9, 5, 30, 5, 30, 30]))
    partial = PartialResults(tmp_path / "kept", "x")

    first, again = run(model, root, partial=partial), run(model, root, partial=partial)

    assert not first.left_out
    assert [(one["item"], one["reason"].split(":")[0]) for one in first.repaired] == [
        (2, "cropped to the image of 50 × 40"),
        (2, "1 of 2 parts dropped"),
    ]
    assert again.repaired == first.repaired


def test_bad_entries_of_the_index_are_left_out_and_told_whenever_it_is_used_again(model, tmp_path):
    root = write_muse(tmp_path, entries=10)
    path = root / "multi_reason_seg/MultiReasonSeg/MUSE_val.json"
    entries = json.loads(path.read_text())
    entries[4]["text_answers"] = ["Both {seg} and {seg}."]
    path.write_text(json.dumps(entries))

    with pytest.raises(UserError, match="entry 4, question 0: its text answer has 2 {seg} for 1 targets"):
        evaluation_set(MUSE, root)
    for _ in range(2):
        left_out = run(model, root).left_out
        assert [(one.item, one.id.split(",")[0]) for one in left_out] == [(None, "entry 4"), (3, "entry 3")]
        assert {one.file for one in left_out} == {str(path)}


def test_an_entry_that_is_not_well_formed_stops(tmp_path):
    root = write_muse(tmp_path)
    path = root / "multi_reason_seg/MultiReasonSeg/MUSE_val.json"
    entries = json.loads(path.read_text())
    entries[4].pop("questions")
    path.write_text(json.dumps(entries))

    with pytest.raises(UserError, match="entry 4 has no 'questions'"):
        evaluation_set(MUSE, root, Tolerance(0.5))


@pytest.mark.parametrize("spec", ["ReasonSeg|val", "refcoco|unc|val", "grefcoco|unc|val"])
def test_a_missing_image_is_left_out_of_every_kind_of_set(data, tmp_path, spec):
    root = shutil.copytree(data, tmp_path / "data")
    items = evaluation_set(spec, root)
    path, _ = items.entry(0)
    path.write_bytes(path.read_bytes()[:200])

    left_out = read_item(items, 0, DEFAULT, root)

    assert isinstance(left_out, LeftOut)
    assert (left_out.image, left_out.file) == (path.relative_to(root).as_posix(), str(path))
    with pytest.raises(UserError, match=path.name):
        read_item(items, 0, STRICT, root)


def test_a_bad_item_is_replaced_where_samples_are_shown(tmp_path):
    items = evaluation_set(MUSE, write_muse(tmp_path, bad=1))

    shown = spread_items(items, 6, DEFAULT)

    assert [item.index for item in shown] == [0, 2, 2, 3, 4, 5]


@pytest.fixture
def command(checkpoint, tmp_path):
    """eval.py on a MUSE split with a bad entry; returns the exit code."""
    root = write_muse(tmp_path / "data")

    def call(*flags) -> int:
        given = ["--dataset_dir", root, "--val_dataset", MUSE, "--log_base_dir", tmp_path / "runs", "--bootstrap", "0"]
        return eval_script.main([str(flag) for flag in (*given, *flags)])

    return call


def test_report_table_list_gallery_and_comparison_say_what_is_missing(command, checkpoint, tmp_path, capsys):
    flags = ["--version", checkpoint, "--answer", "given", "--gallery"]
    assert command(*flags, "--output", tmp_path / "a.json") == 0
    printed = capsys.readouterr().out
    assert command(*flags, "--output", tmp_path / "b.json", "--workers", "1") == 0

    scores = json.loads((tmp_path / "a.json").read_text())["splits"][MUSE]
    assert (scores["left_out"], scores["repaired"], scores["images"]) == (1, 0, 5)
    assert [entry["item"] for entry in scores["left_out_entries"]] == [3]
    assert "NOT THE WHOLE SPLIT: 1 bad entry is left out" in printed
    assert f"1 left out, 0 repaired, all listed in {tmp_path / 'a.bad_samples.jsonl'}" in printed
    (listed,) = map(json.loads, (tmp_path / "a.bad_samples.jsonl").read_text().splitlines())
    assert (listed["kind"], listed["source"], listed["item"]) == ("left_out", MUSE, 3)
    assert listed["file"].endswith("MUSE_val.json") and listed["id"] and "encloses no pixel" in listed["reason"]
    assert "NOT THE WHOLE SPLIT" in (tmp_path / "a.md").read_text()
    assert "NOT THE WHOLE SPLIT" in (tmp_path / "a.html").read_text()
    capsys.readouterr()
    assert eval_script.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert capsys.readouterr().out.count("NOT THE WHOLE SPLIT") == 2
    with pytest.raises(UserError, match="encloses no pixel"):
        command(*flags, "--output", tmp_path / "c.json", "--skip_bad_samples", "0")


def test_saved_predictions_are_scored_without_the_bad_entry(command, tmp_path, capsys):
    mask = np.zeros((40, 50), np.uint8)
    mask[5:30, 5:30] = 1
    lines = [
        {"split": MUSE, "index": number, "expression": 0, "present": True, "masks": [encode_mask(mask)]}
        for number in range(6)
    ]
    saved = tmp_path / "masks.jsonl"
    saved.write_text("\n".join(map(json.dumps, lines)))

    assert command("--predictions", saved, "--output", tmp_path / "p.json", "--gallery") == 0
    scores = json.loads((tmp_path / "p.json").read_text())["splits"][MUSE]
    assert (scores["left_out"], scores["expressions"], scores["gIoU"]) == (1, 5, 1.0)
    assert "NOT THE WHOLE SPLIT" in capsys.readouterr().out

    saved.write_text("\n".join(map(json.dumps, [*lines, lines[0] | {"index": 9}])))
    with pytest.raises(UserError, match="has no entry 9"):
        command("--predictions", saved, "--output", tmp_path / "p.json")
