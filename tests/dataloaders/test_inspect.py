"""The command that looks at a data folder."""

import json
from pathlib import Path

import pytest

import groundscore
from dataloaders import inspect
from dataloaders.data_checks import check_data
from dataloaders.settings import ALL_FAMILIES
from groundscore.errors import UserError


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_complete_folder_has_no_problems(data_root, capsys):
    (data_root / "reason_seg/ReasonSeg/test").mkdir()
    for path in (data_root / "reason_seg/ReasonSeg/val").iterdir():
        (data_root / "reason_seg/ReasonSeg/test" / path.name).write_bytes(path.read_bytes())
    for path in data_root.glob("refer_seg/refcoco*/refs(*).p"):
        path.with_name(path.name.replace(")", "_exclude_unified)")).write_bytes(path.read_bytes())

    assert inspect.main(["--dataset_dir", str(data_root), "--decode"]) == 0

    shown = capsys.readouterr().out
    assert "present  refer_seg/grefcoco  testA 1, train 1, val 1" in shown
    assert "present  refer_seg/refcocog|val  test" in shown
    assert "present  multi_reason_seg/MultiReasonSeg|test_many  test_many 3" in shown
    assert " 0 bad, 0 missing" in shown


def test_decoding_counts_repairs_and_every_kind_of_problem(data_root, tmp_path, capsys):
    path = data_root / "refer_seg/refcoco/instances.json"
    instances = json.loads(path.read_text())
    first, second, *_ = instances["annotations"]
    first["segmentation"] = [[1, 1, 2, 2]]
    second["segmentation"] = [[-9, 2, 20, 2, 20, 20], [1, 1, 2, 2]]
    path.write_text(json.dumps(instances))
    (data_root / "coco/train2017/000000000012.jpg").unlink()

    assert inspect.main(["--dataset_dir", str(data_root), "--decode", "--jsonl", str(tmp_path / "sets.jsonl")]) == 1

    sets = {f"{one['family']}/{one['dataset']}": one for one in lines(tmp_path / "sets.jsonl")}
    refcoco = sets["refer_seg/refcoco"]
    assert {kind: refcoco[kind] for kind in ("repaired", "bad", "broken", "incomplete")} == {
        "repaired": 2,
        "bad": 1,
        "broken": 0,
        "incomplete": 0,
    }
    assert f"annotation {first['id']} of image" in refcoco["problems"][0]["problem"]
    assert "--skip_bad_samples" in refcoco["problems"][0]["remedy"]
    assert {repair["id"] for repair in refcoco["repairs"]} == {f"annotation {second['id']}"}
    assert (sets["sem_seg/cocostuff"]["bad"], sets["sem_seg/cocostuff"]["incomplete"]) == (0, 1)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("refer_seg/refcoco "))
    assert row.split()[-4:] == ["2", "1", "0", "0"]


def test_what_is_missing_or_bad_is_told_with_its_remedy(data_root, tmp_path):
    (data_root / "cocostuff/train2017/000000000012.png").rename(data_root / "cocostuff/train2017/000000000013.png")
    (data_root / "refer_seg/refcoco/instances.json").unlink()
    (data_root / "refer_seg/refzom/Ref_ZOM.p").unlink()
    (data_root / "refer_seg/refzom/instances.json").unlink()
    (data_root / "refer_seg/refcoco+/refs(unc_exclude_unified).p").write_bytes(b"")
    (data_root / "reason_seg/ReasonSeg/explanatory/train.json").unlink()
    (data_root / "vlpart/pascal_part/train.json").write_text("{")
    (data_root / "reason_seg/ReasonSeg/val/a_short.json").write_text('{"text": []}')
    (data_root / "refer_seg/images/saiapr_tc-12/COCO_train2014_000000000010.jpg").write_bytes(b"")

    def bad(report):
        return [problem.text for problem in report.problems]

    reports = {report.name: report for report in check_data(data_root, decode=True)}

    assert reports["refzom"].state == "missing"
    assert (reports["refcocog|val"].state, reports["refcocog"].state) == ("missing", "present")
    assert [path.name for path in reports["refcocog|val"].expected[:2]] == [
        "refs(umd_exclude_unified).p",
        "instances.json",
    ]
    assert "SESAME" in reports["refcocog|val"].origin
    assert "refs(unc_exclude_unified).p" in bad(reports["refcoco+|val"])[0]
    assert "train without explanations: --explanatory -1" in bad(reports["ReasonSeg|train"])[0]
    assert "000000000013.jpg" in bad(reports["cocostuff"])[0]
    assert "instances.json is missing" in bad(reports["refcoco"])[0]
    assert "not valid JSON" in bad(reports["pascal_part"])[0]
    assert "at least one sentence" in bad(reports["ReasonSeg|val"])[0]
    assert "000000000010.jpg" in bad(reports["refclef"])[0]
    assert all(problem.remedy for report in reports.values() for problem in report.problems)
    assert inspect.main(["--dataset_dir", str(data_root), "--jsonl", str(tmp_path / "r.jsonl")]) == 1
    assert {line["dataset"]: line["state"] for line in lines(tmp_path / "r.jsonl")}["refzom"] == "missing"


def test_draws_are_written_as_objects(data_root, tmp_path):
    arguments = ["--dataset_dir", str(data_root), "--dataset", f"{ALL_FAMILIES}||custom", "--custom_data", "mine"]
    file, sheet = tmp_path / "draws.jsonl", tmp_path / "sheet.png"

    inspect.main([*arguments, "--draw", "30", "--seed", "3", "--jsonl", str(file), "--sheet", str(sheet)])

    draws = lines(file)
    assert len(draws) == 30
    for draw in draws:
        answers = " ".join(turn["answer"] for turns in draw["conversations"] for turn in turns)
        assert answers.count("[SEG]") == len(draw["mask_areas"])
        assert all(draw["mask_areas"])
        assert (data_root / draw["image"]).is_file()
    assert sheet.stat().st_size > 1000


def test_a_full_disk_is_named(data_root):
    with pytest.raises(UserError, match="/dev/full cannot be written .No space left on device"):
        inspect.main(["--dataset_dir", str(data_root), "--jsonl", "/dev/full"])


def test_items_are_written_with_areas_and_boxes(data_root, tmp_path):
    file = tmp_path / "items.jsonl"
    specs = "ReasonSeg|val||grefcoco|unc|val||MultiReasonSeg|val"

    inspect.main(["--dataset_dir", str(data_root), "--val_dataset", specs, "--jsonl", str(file)])

    short, long, refer, *muse = lines(file)
    assert short["image"] == "reason_seg/ReasonSeg/val/a_short.jpg"
    assert long["expressions"] == ["Where can one sit?"]
    assert (short["height"], short["width"], short["ignore_areas"]) == (24, 32, [49])
    assert short["mask_boxes"] == [[4, 4, 13, 13]]
    assert refer["expressions"] == ["The Left one.", "right one", "both", "the zebra"]
    assert refer["exists"] == [True, True, True, False]
    assert refer["mask_areas"] == [64, 144, 208, 0]
    assert refer["mask_boxes"] == [[4, 4, 12, 12], [16, 8, 28, 20], [4, 4, 28, 20], None]
    assert [item["index"] for item in muse] == [0, 1, 2]
    assert muse[0]["target_areas"] == [[64], [48, 64]]


def test_the_page_of_layouts_names_every_set_and_its_files(data_root):
    text = (Path(groundscore.__file__).parent / "DATA.md").read_text()
    for report in check_data(data_root):
        if report.family != "custom":
            assert report.name.split("|")[0] in text
            assert report.expected[0].name in text


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--draw", "1"], "--draw needs --dataset"),
        (["--draw", "1", "--val_dataset", "ReasonSeg|val"], "exclude each other"),
        (["--dataset_dir", "nowhere"], "no such folder"),
    ],
)
def test_unclear_commands_are_refused(data_root, arguments, message):
    with pytest.raises(UserError, match=message):
        inspect.main(["--dataset_dir", str(data_root), *arguments])
