"""What was loaded is said by every program, in one line; with --debug tensor by tensor."""

import numpy as np
import pytest
from PIL import Image

import chat
import merge_lora_weights
from checkpoints import load_model, save_model
from tests.checkpoints.trained_run import write_run
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def merged(published, tmp_path_factory):
    directory = tmp_path_factory.mktemp("merged") / "lisa"
    save_model(*load_model(published.original, **published.flags(system="LISA"))[:2], directory)
    return directory


def said_by_chat(tmp_path, capsys, *flags: str) -> str:
    Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    asked = ["--image", str(tmp_path / "a.png"), "--prompt", "Where?", "--max_new_tokens", "2"]
    chat.main([*flags, *asked, "--vis_save_path", str(tmp_path / "vis")])
    return capsys.readouterr().err


def test_flags_that_a_merged_model_makes_meaningless_are_said_to_be_ignored(merged, tmp_path, capsys):
    flags = ["--version", str(merged), "--vision_tower", "other", "--vision_pretrained", "other.pth"]
    (line,) = [line for line in said_by_chat(tmp_path, capsys, *flags).splitlines() if " tensors read" in line]
    assert line.startswith(f"LISA from merged directory {merged}: ")
    assert "--vision_tower other ignored" in line and "--vision_pretrained other.pth ignored" in line


def test_new_rows_and_tensors_are_said(published, tmp_path, capsys):
    flags = ["--version", str(published.original), "--model_key", "LISA", "--vision_tower", str(published.clip)]
    said = said_by_chat(tmp_path, capsys, *flags, "--vision_pretrained", str(published.sam), "--debug")
    assert "newly initialised: 4 tensors of text_hidden_fcs; newly initialised: 4 rows of the vocabulary" in said
    assert "  newly initialised: text_hidden_fcs.0.weight\n" in said
    assert "  language_model.norm.weight was model.norm.weight\n" in said


def test_a_model_without_sam_ignores_one(published):
    overrides = {"vision_tower_for_mask": True, "seg_token_num": 3, "image_feature_scale_num": 2}
    report = load_model(published.original, system="PixelLM", overrides=overrides, **published.flags())[2]
    assert "ignored: this PixelLM has no SAM" in str(report)


def test_a_run_is_said_to_lie_over_its_base(tmp_path, capsys):
    run = write_run(tmp_path, *tiny_model("UGround"))
    line = next(line for line in said_by_chat(tmp_path, capsys, "--version", str(run)).splitlines() if "read" in line)
    assert f" tensors of {run}" in line and "newly initialised" not in line
    merge_lora_weights.main(["--weight", str(run), "--save_path", str(tmp_path / "merged"), "--no_check"])
    assert f"UGround from merged directory {tmp_path / 'base'}: " in capsys.readouterr().err
