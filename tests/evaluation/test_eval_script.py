"""eval.py: where results go and what they say, several protocols and splits, what goes wrong, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as eval_script
from evaluation.report_files import report_path
from groundscore.errors import UserError
from tests.evaluation.balls import item_of, muse_item
from tests.tiny import tiny_model, write_answer

ROOT = Path(__file__).parents[2]
ITEMS = [item_of(0, 1, ignored=True), item_of(1, 5), item_of(2, 2, empty=1), item_of(3, 1)]


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """eval.py with a tiny model and the images above in place of what the flags name."""
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("Sure, [SEG].", bos=False))
    monkeypatch.setattr("evaluation.commands.load_flagged_model", lambda flags, rank: (model, processor))
    monkeypatch.setattr("evaluation.commands.weights_hash", lambda model: "0" * 64)  # its head has no weights
    sets = {}
    monkeypatch.setattr(
        "evaluation.report_files.evaluation_sets",
        lambda specs, root, tolerance: {spec: sets.get(spec, ITEMS) for spec in specs.split("||")},
    )
    flags = ["--version", "some/checkpoint", "--dataset_dir", str(tmp_path), "--log_base_dir", str(tmp_path / "runs")]
    return [*flags, "--bootstrap", "0"], sets


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_report_lands_below_its_run_with_a_table_and_points_for_every_split(loaded, tmp_path, capsys):
    flags, _ = loaded
    assert eval_script.main([*flags, "--val_dataset", "a|val||b|x|val", "--exp_name", "mine/eval"]) == 0

    directory = tmp_path / "runs" / "mine" / "eval"
    report = read(directory / "a_val+b_x_val.generated.json")
    assert list(report["splits"]) == ["a|val", "b|x|val"]
    for scores in report["splits"].values():
        assert all(0 <= scores[name] <= 1 for name in ("gIoU", "cIoU", "P@0.5"))
        assert scores["protocol"]["expressions"] == "single" and scores["layers"]
    assert report["checkpoint"]["sha256"] == "0" * 64 and report["checkpoint"]["system"] == "UGround"
    assert report["command"][0] == "eval.py" and "torch" in report["versions"]
    printed = capsys.readouterr().out
    assert "a\\|val" in printed and "a\\|val" in (directory / "a_val+b_x_val.generated.md").read_text()
    assert sorted(path.name for path in directory.iterdir() if path.is_file()) == [
        "a_val+b_x_val.generated.json",
        "a_val+b_x_val.generated.md",
        "a_val+b_x_val.generated.rows.jsonl",
    ]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points = EventAccumulator(str(directory / "tensorboard"))
    points.Reload()
    for tag, split in (("a_val", "a|val"), ("b_x_val", "b|x|val")):
        (point,) = points.Scalars(f"eval/{tag}/generated/gIoU")
        assert point.value == pytest.approx(report["splits"][split]["gIoU"])


def test_both_protocols_stand_under_every_split(loaded, tmp_path):
    flags, _ = loaded
    output = tmp_path / "deep" / "report.json"
    eval_script.main([*flags, "--val_dataset", "a|val||b|x|val", "--answer", "both", "--output", str(output)])
    report = read(output)
    for split in report["splits"].values():
        assert list(split) == ["given", "generated"]
        assert all(0 <= split[answer][name] <= 1 for answer in split for name in ("gIoU", "cIoU", "P@0.5"))
    assert sum(report["layers"].values()) == 2 * (9 + 9)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("--version a", "ReasonSeg_val.generated"),
        ("--version a --answer both --layer last --limit 5", "ReasonSeg_val.both.layer_last.first5"),
        ("--version a --answer given --expressions single --layer 2", "ReasonSeg_val.given.single.layer_2"),
        ("--predictions a.jsonl", "ReasonSeg_val.predicted"),
        ("--predictions a.jsonl --limit 5", "ReasonSeg_val.predicted.first5"),
    ],
)
def test_reports_of_other_protocols_layers_and_limits_have_other_names(flags, name):
    flags = eval_script.build_parser().parse(flags.split())
    assert report_path(flags, ["ReasonSeg|val"]).name == f"{name}.json"


def test_a_report_lies_with_the_run_of_its_checkpoint_however_deep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("runs/a/ckpt_model", "runs/a/merged", "runs/group/300_steps/b/meta", "runs/group/300_steps/b/hf"):
        Path(path).mkdir(parents=True)
    expected = {
        "runs/a": "a",
        "runs/a/merged": "a",
        "runs/group/300_steps/b/hf": "group/300_steps/b",
        "runs/group/300_steps": "group",
        "elsewhere/c": "c",
    }
    for version, run in expected.items():
        flags = eval_script.build_parser().parse(["--version", version, "--name", "x"])
        assert report_path(flags, ["a|val"]) == Path("runs") / run / "eval/x.json"


def test_a_split_that_cannot_be_scored_has_a_row_that_says_why(loaded, tmp_path, capsys):
    flags, sets = loaded
    sets["b|val"] = [item_of(0, 1)]
    sets["b|val"][0].masks = np.ones((1, 7, 7), np.uint8)
    assert eval_script.main([*flags, "--val_dataset", "a|val||b|val", "--output", str(tmp_path / "r.json")]) == 1
    report = read(tmp_path / "r.json")
    assert report["splits"]["a|val"]["gIoU"] is not None
    assert "its masks are 7 x 7" in report["splits"]["b|val"]["error"]
    assert "gIoU" not in report["splits"]["b|val"]
    assert "b|val (generated) could not be scored" in capsys.readouterr().out


def test_a_single_split_that_cannot_be_scored_is_an_error(loaded, tmp_path):
    flags, sets = loaded
    sets["b|val"] = [muse_item(0, 2)]
    sets["b|val"][0].answers = ["none."]
    with pytest.raises(UserError, match="names 0 targets"):
        eval_script.main([*flags, "--val_dataset", "b|val", "--answer", "given", "--output", str(tmp_path / "r.json")])
    assert not (tmp_path / "r.json").exists()


def test_saved_predictions_hold_a_line_per_expression(loaded, tmp_path):
    flags, sets = loaded
    sets["MultiReasonSeg|val"] = [muse_item(0, 1, 2)]
    output = tmp_path / "r.json"
    eval_script.main(
        [*flags, "--val_dataset", "a|val||MultiReasonSeg|val", "--save_predictions", "--output", str(output)]
    )
    lines = [json.loads(line) for line in (tmp_path / "r.predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 9 + 2
    assert {"split", "image", "expression", "present", "mask", "answer"} == set(lines[0])
    assert (lines[0]["image"], lines[3]["expression"], lines[0]["answer"]) == ("0.jpg", 2, "Sure, [SEG].")
    assert lines[0]["mask"]["size"] == [20, 30]
    assert lines[-1]["index"] == 40 and len(lines[-1]["masks"]) == 1


def test_saved_predictions_score_the_same_again_and_compare_as_equal(checkpoint, data, tmp_path, capsys):
    splits = "ReasonSeg|val||refcoco|unc|val||grefcoco|unc|val"
    flags = ["--dataset_dir", str(data), "--val_dataset", splits, "--bootstrap", "20", "--gallery"]
    model = ["--version", str(checkpoint), "--answer", "given", "--device", "cpu", "--save_predictions"]
    eval_script.main([*flags, *model, "--output", str(tmp_path / "a.json")])
    eval_script.main(
        [*flags, "--predictions", str(tmp_path / "a.predictions.jsonl"), "--output", str(tmp_path / "b.json")]
    )
    a, b = (read(tmp_path / f"{name}.json")["splits"] for name in "ab")
    for split, scores in b.items():
        del scores["protocol"]
        assert scores == {name: a[split][name] for name in scores}
    assert all((tmp_path / f"{name}.html").stat().st_size > 5000 for name in "ab")

    capsys.readouterr()
    eval_script.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "gIoU" in line]
    assert len(lines) == 3 and all("| +0.0  |" in line for line in lines)


def test_predictions_of_two_protocols_are_kept_apart(loaded, tmp_path):
    flags, _ = loaded
    output = tmp_path / "r.json"
    eval_script.main(
        [*flags, "--val_dataset", "a|val", "--answer", "both", "--save_predictions", "--output", str(output)]
    )
    for answer in ("given", "generated"):
        assert len((tmp_path / f"r.{answer}.predictions.jsonl").read_text().splitlines()) == 9


def test_a_killed_run_goes_on_with_the_split_that_it_was_in(loaded, tmp_path, monkeypatch):
    flags, _ = loaded
    flags = [*flags, "--val_dataset", "a|val||b|val", "--output", str(tmp_path / "r.json"), "--val_batch_size", "1"]
    import evaluation.running as running

    eval_script.main(flags)
    whole = read(tmp_path / "r.json")
    (tmp_path / "r.json").unlink()
    count, calls = running.count, []

    def dying(parts, predicted):
        calls.append(parts)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return count(parts, predicted)

    monkeypatch.setattr(running, "count", dying)
    with pytest.raises(KeyboardInterrupt):
        eval_script.main(flags)
    assert (tmp_path / ".partial").is_dir()
    eval_script.main(flags)
    assert len(calls) == 6 + 3, "five of eight images were done"
    again = read(tmp_path / "r.json")
    for report in (whole, again):
        for scores in report["splits"].values():
            del scores["seconds"]
    assert again["splits"] == whole["splits"]
    assert not (tmp_path / ".partial").exists()


def test_of_a_split_that_failed_the_finished_images_are_kept(loaded, tmp_path, monkeypatch):
    flags, sets = loaded
    sets["b|val"] = [item_of(0, 1), item_of(1, 1), item_of(2, 1)]
    sets["b|val"][2].masks = np.ones((1, 7, 7), np.uint8)
    flags = [*flags, "--val_dataset", "a|val||b|val", "--output", str(tmp_path / "r.json"), "--val_batch_size", "1"]
    assert eval_script.main(flags) == 1
    (kept,) = (tmp_path / ".partial").iterdir()
    assert kept.read_text().startswith('{"item": 0')


def test_a_report_must_be_named_json(loaded, tmp_path):
    flags, _ = loaded
    with pytest.raises(UserError, match=r"scores\.lora8: name a \.json file"):
        eval_script.main([*flags, "--val_dataset", "a|val", "--output", str(tmp_path / "scores.lora8")])


def test_scores_and_samples_of_a_report_in_a_run_are_in_its_tensorboard(loaded, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags, _ = loaded
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    own = ["--output", str(run / "trained.json"), "--sheet", str(run / "sheet.png"), "--sheet_samples", "2"]

    eval_script.main([*flags, "--val_dataset", "a|val", *own])

    points = EventAccumulator(str(run / "eval" / "tensorboard"))
    points.Reload()
    assert all(tag.startswith("eval/a_val/") for kind in ("scalars", "images") for tag in points.Tags()[kind])
    images = [points.Images(f"eval/a_val/picture_{number}") for number in (1, 2)]
    assert all(600 < image.width < 800 for (image,) in images), "as wide as a page shows them"


def test_a_sheet_and_images_are_written(loaded, tmp_path):
    flags, _ = loaded
    sheet, samples = tmp_path / "new" / "sheet.png", tmp_path / "vis"
    flags = [*flags, "--sheet", str(sheet), "--sheet_samples", "3", "--vis", "1", "--vis_save_path", str(samples)]
    eval_script.main([*flags, "--val_dataset", "a|val||b|x|val"])
    assert Image.open(sheet).size[0] > 1000
    assert sorted(str(path.relative_to(samples)) for path in samples.rglob("*.png")) == [
        "a_val/0001.png",
        "b_x_val/0001.png",
    ]


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--dataset_dir", "nowhere"], "nowhere"),
        (["--val_dataset", "ReasonSeg|val", "--output", "tests"], "is a directory"),
        (["--val_dataset", "ReasonSeg|val", "--sheet", "eval.py/x.png"], "file has this name"),
        (["--val_dataset", "ReasonSeg|nowhere"], "ReasonSeg/nowhere is missing"),
        (["--val_dataset", "Cityscapes"], "unknown evaluation set"),
        (["--val_dataset", "ReasonSeg|val", "--exp_name", "../up"], "not the name of a file"),
        (["--val_dataset", "ReasonSeg|val", "--name", "a/b"], "not the name of a file"),
        (["--answer", "guessed"], "guessed"),
        (["--val_batch_size", "0"], "not a positive number"),
        (["--val-datsaet", "x"], "did you mean --val_dataset"),
    ],
)
def test_wrong_flags_are_explained_before_anything_is_loaded(checkpoint, data, tmp_path, flags, message):
    runs = ["--log_base_dir", str(tmp_path)]
    with pytest.raises(UserError, match=message):
        eval_script.main(["--version", str(checkpoint), "--dataset_dir", str(data), *runs, *flags])


def test_a_checkpoint_is_asked_for():
    with pytest.raises(UserError, match="--version is missing"):
        eval_script.main([])


def test_two_processes_of_torchrun_report_what_one_does(checkpoint, data, tmp_path):
    splits = "ReasonSeg|val||refcoco|unc|val||grefcoco|unc|val"
    flags = ["--version", checkpoint, "--dataset_dir", data, "--val_dataset", splits, "--device", "cpu"]
    flags += ["--answer", "both", "--max_new_tokens", "4", "--save_predictions", "--val_batch_size", "1"]
    flags = [str(flag) for flag in flags]
    eval_script.main([*flags, "--output", str(tmp_path / "one.json")])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*torchrun, "eval.py", *flags, "--output", str(tmp_path / "two.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    one, two = (read(tmp_path / f"{name}.json")["splits"] for name in ("one", "two"))
    for split in (*one.values(), *two.values()):
        for scores in split.values():
            del scores["seconds"]
    assert one == two
    assert [split["given"]["expressions"] for split in one.values()] == [2, 2, 8]
    for answer in ("given", "generated"):
        kept = [(tmp_path / f"{name}.{answer}.predictions.jsonl").read_text() for name in ("one", "two")]
        assert kept[0] == kept[1]


def test_a_second_evaluation_of_the_same_report_ends_before_any_work(loaded, tmp_path, monkeypatch):
    flags, _ = loaded
    flags = [*flags, "--val_dataset", "a|val"]
    output = ["--output", str(tmp_path / "report.json")]

    def load_while_another_starts(_flags, _rank):
        for more in ([], ["--predictions", str(tmp_path / "predictions.jsonl")]):
            with pytest.raises(UserError, match=r"another evaluation is writing .*report\.json; .*--name"):
                eval_script.main([*flags, *more, *output])
        raise UserError("enough")

    monkeypatch.setattr("evaluation.commands.load_flagged_model", load_while_another_starts)
    with pytest.raises(UserError, match="enough"):
        eval_script.main([*flags, *output])


def test_a_place_that_cannot_be_written_is_said_before_the_model_is_loaded(loaded, tmp_path, monkeypatch):
    flags, _ = loaded
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("evaluation.commands.load_flagged_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match="cannot be a directory for results"):
        eval_script.main([*flags, "--val_dataset", "a|val", "--output", str(tmp_path / "file" / "report.json")])
    monkeypatch.setattr(
        "groundscore.writing.tempfile.TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only"))
    )
    with pytest.raises(UserError, match=r"cannot be written \(Read-only\)"):
        eval_script.main([*flags, "--val_dataset", "a|val", "--output", str(tmp_path / "report.json")])
