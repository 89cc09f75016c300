"""eval.py and chat.py from a saved checkpoint and data on disk to a report, images and masks."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import chat
import eval as eval_script
from evaluation.commands import expression_to_show
from tests.programs import run_program


def test_eval_writes_a_report_a_sheet_and_images(checkpoint, data, tmp_path, capsys):
    flags = ["--version", str(checkpoint), "--dataset_dir", str(data), "--device", "cpu", "--max_new_tokens", "4"]
    files = ["--output", str(tmp_path / "report.json"), "--sheet", str(tmp_path / "sheet.png"), "--sheet_samples", "2"]

    eval_script.main([*flags, *files, "--val_dataset", "ReasonSeg|val||refcoco|unc|val", "--answer", "both"])

    splits = json.loads((tmp_path / "report.json").read_text())["splits"]
    assert {split: values["given"]["expressions"] for split, values in splits.items()} == {
        "ReasonSeg|val": 2,
        "refcoco|unc|val": 2,
    }
    assert all(values[answer]["cIoU"] is not None for values in splits.values() for answer in values)
    assert Image.open(tmp_path / "sheet.png").size[0] > 1000
    assert "refcoco\\|unc\\|val" in capsys.readouterr().out


def test_every_other_sample_of_a_sheet_is_a_no_target_expression_where_there_is_one():
    assert [expression_to_show([True, True, False], number) for number in range(5)] == [0, 2, 2, 2, 1]
    assert [expression_to_show([True, True], number) for number in range(4)] == [0, 1, 0, 1]


def test_chat_answers_one_question(checkpoint, data, tmp_path, capsys):
    image = data / "reason_seg" / "ReasonSeg" / "val" / "0.jpg"
    flags = ["--version", str(checkpoint), "--image", str(image), "--device", "cpu", "--max_new_tokens", "4"]

    for _ in range(2):
        chat.main([*flags, "--prompt", "Where is the kite?", "--layer", "2", "--vis_save_path", str(tmp_path)])

    records = sorted(path.name for path in tmp_path.glob("*.json"))
    assert records == ["0_1.json", "0_2.json"]
    record = json.loads((tmp_path / "0_1.json").read_text())
    assert record["prompt"] == "Where is the kite?"
    for target in record["targets"]:
        mask = np.asarray(Image.open(tmp_path / target["mask"]))
        assert mask.shape == (40, 50) and (mask > 0).sum() == target["pixels"] and target["layer"] == 2
    assert "saved: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["eval.py", "--version", "no/such/model", "--dataset_dir", "{data}", "--log_base_dir", "{tmp}"],
        ["eval.py", "--version", "{data}", "--dataset_dir", "{data}", "--log_base_dir", "{tmp}"],
        ["chat.py", "--version", "no/such/model"],
        ["chat.py", "--version", "no/such/model", "--image", "{data}/reason_seg/ReasonSeg/val/0.json"],
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(data, tmp_path, command):
    command = [part.replace("{data}", str(data)).replace("{tmp}", str(tmp_path)) for part in command]
    command += ["--vis_save_path", str(tmp_path)]

    result = run_program(command[0], command[1:], dict(os.environ), timeout=100)

    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "error: " in result.stderr
