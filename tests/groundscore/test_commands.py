"""The command `groundscore`: what it prints and writes, its exit codes, and errors that say what to do."""

import json
import re

import numpy as np
import pytest

import eval as eval_script
from groundscore.commands import COMMANDS, main
from groundscore.errors import UserError, run_main
from groundscore.scoring.masks import encode_mask
from groundscore.splits import evaluation_set

SPEC, REASON = "refcoco|unc|val", "ReasonSeg|val"


@pytest.fixture(scope="module")
def predictions(world, tmp_path_factory):
    """Shifted masks of two splits: of every line that `export-items` writes, with its last two keys added."""
    folder = tmp_path_factory.mktemp("predictions")
    listed = folder / "items.jsonl"
    assert main(["export-items", f"{SPEC}||{REASON}", "--data", str(world), "--output", str(listed)]) == 0
    items = {(spec, item.path_below(world)): item for spec in (SPEC, REASON) for item in evaluation_set(spec, world)}
    with (folder / "masks.jsonl").open("w") as file:
        for line in map(json.loads, listed.read_text().splitlines()):
            item = items[line["split"], line["image"]]
            mask = np.roll(item.masks[line["expression"]], (3, 2), (0, 1))
            assert line["text"] == item.expressions[line["expression"]] and line["text"] in line["prompt"]
            file.write(json.dumps(line | {"present": True, "mask": encode_mask(mask)}) + "\n")
    return folder / "masks.jsonl"


def report_of(path):
    return json.loads(path.read_text())


def test_scores_are_those_of_eval_py(predictions, world, tmp_path, capsys):
    specs = f"{SPEC}||{REASON}"
    ours, theirs = tmp_path / "ours.json", tmp_path / "eval.json"
    data = ["--data", str(world), "--split", specs, "--output", str(ours)]
    assert main(["score", str(predictions), *data, "--bootstrap", "50", "--selected_on", REASON, "--gallery"]) == 0
    printed = capsys.readouterr().out
    flags = ["--predictions", str(predictions), "--dataset_dir", str(world), "--val_dataset", specs]
    flags += ["--bootstrap", "50", "--selected_on", REASON, "--output", str(theirs)]
    assert eval_script.main(flags) == 0

    assert report_of(ours)["splits"] == report_of(theirs)["splits"]
    assert report_of(ours).keys() == report_of(theirs).keys()
    assert report_of(ours)["command"][:2] == ["groundscore", "score"]
    assert ours.with_suffix(".rows.jsonl").read_text() == theirs.with_suffix(".rows.jsonl").read_text()
    assert f"report: {ours}" in printed and "gIoU" in printed
    assert "</html>" in ours.with_suffix(".html").read_text()


def test_reports_are_compared(predictions, world, tmp_path, capsys):
    for name in "ab":
        flags = ["--data", str(world), "--split", REASON, "--output", str(tmp_path / f"{name}.json")]
        main(["score", str(predictions), *flags, "--bootstrap", "0"])
    capsys.readouterr()

    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--samples", "50"]) == 0
    assert "+0.0" in capsys.readouterr().out


def test_inspect_lists_the_splits_that_are_there(world, capsys, tmp_path):
    assert main(["inspect", str(world)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{SPEC}: ") and "expressions" in line for line in lines)
    assert main(["inspect", str(world), "--split", f"{SPEC}||refcoco|unc|nowhere", "--decode"]) == 1
    assert "no refs of split 'nowhere'" in capsys.readouterr().out
    with pytest.raises(UserError, match="has none of the known splits"):
        main(["inspect", str(tmp_path)])


def test_items_go_to_standard_output_and_the_gallery_to_a_page(predictions, world, tmp_path, capsys):
    assert main(["export-items", REASON, "--data", str(world), "--limit", "1"]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["id"].endswith("_0") and line["split"] == REASON

    page = tmp_path / "new" / "page.html"
    assert main(["gallery", str(predictions), "--data", str(world), "--split", REASON, "--output", str(page)]) == 0
    assert "</html>" in page.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_page(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0 and f"groundscore {name}" in capsys.readouterr().out


def test_without_a_command_all_are_listed(capsys):
    assert main([]) == main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(said.count(f"\n  {name} ") == 2 for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["scroe"], "unknown command 'scroe'.*Did you mean 'score'"),
        (["score", "x.jsonl"], "required: --split"),
        (["score", "x.jsonl", "--split", SPEC, "--data", "nowhere"], "nowhere: no such directory"),
        (["score", "x.jsonl", "--split", SPEC, "--data", "{data}"], "x.jsonl is missing"),
        (["score", "x.jsonl", "--split", "refcoo|unc|val", "--data", "{data}"], r"Did you mean 'refcoco\|unc\|val'"),
        (["score", "x.jsonl", "--split", SPEC, "--date", "{data}"], "unknown flag --date; did you mean --data"),
        (["score", "x.jsonl", "--split", SPEC, "--output", "x.txt"], "name a .json file"),
        (["score", "x.jsonl", "--split", SPEC, "--gallery"], "--gallery needs --output"),
        (["score", "x.jsonl", "--split", SPEC, "--limit", "0"], "--limit: 0 is not a positive number|invalid"),
        (["compare", "a.json"], "name two reports or more"),
        (["compare", "a.json", "b.json"], "a.json is missing"),
        (["inspect", "nowhere"], "nowhere: no such directory"),
        (["export-items", "", "--data", "{data}"], "no split is named"),
    ],
)
def test_what_a_user_can_get_wrong_ends_in_a_line(world, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_main(main, [argument.format(data=world) for argument in arguments])

    said = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in said
    assert re.search(message, said.replace("\n", " ")), said
