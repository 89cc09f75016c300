"""The miniature's base in Qwen3-VL's layout: built, its image encoder trained, and made again from a training run."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers

import chat
import eval as eval_script
import merge_lora_weights
import train_ds
from checkpoints import load_model
from miniature import base, data, encoders, vision
from miniature.qwen import without_targets

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "miniature"
    data.write(root, seed=3, scale=0.02)
    return root


@pytest.fixture(scope="module")
def built(world, tmp_path_factory):
    """The directory of an untrained base, with the mask decoder of the shipped one."""
    directory = tmp_path_factory.mktemp("base")
    base.main(["--backbone", "qwen3_vl", "--decoder", "sam2", "--dataset_dir", str(world), "--out", str(directory)])
    return directory


def test_it_is_a_small_qwen3_vl_of_transformers(built):
    model = transformers.AutoModelForImageTextToText.from_pretrained(built / "qwen3_vl")
    tokenizer = transformers.AutoTokenizer.from_pretrained(built / "qwen3_vl")

    assert model.config.model_type == "qwen3_vl" and model.config.vision_config.deepstack_visual_indexes
    assert len(tokenizer) == model.config.text_config.vocab_size
    assert tokenizer.decode(tokenizer.encode("the red kite, ñ")) == "the red kite, ñ"
    assert sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) <= 10_000_000


def test_its_image_encoder_is_trained_to_tell_what_its_cells_show(built, monkeypatch, capsys):
    for name, value in {"SCENES": 12, "BATCH": 4, "WARM_UP": 1, "PRINT_EVERY": 6}.items():
        monkeypatch.setattr(encoders, name, value)
    before = transformers.AutoModelForImageTextToText.from_pretrained(built / "qwen3_vl").model

    vision.main(["qwen3_vl", "--base", str(built), "--steps", "18"])

    after = transformers.AutoModelForImageTextToText.from_pretrained(built / "qwen3_vl").model
    losses = [
        float(line.split("loss ")[1].split()[0]) for line in capsys.readouterr().out.splitlines() if "loss" in line
    ]
    assert losses[-1] < losses[0]
    assert not torch.equal(before.visual.merger.linear_fc2.weight, after.visual.merger.linear_fc2.weight)
    assert torch.equal(before.language_model.embed_tokens.weight, after.language_model.embed_tokens.weight)


def test_it_trains_is_scored_merged_asked_and_is_a_base_again(built, world, tmp_path, capsys):
    flags = [
        "--version",
        built / "qwen3_vl",
        "--vision_pretrained",
        built / "sam2_miniature",
        "--dataset_dir",
        world,
    ]
    flags += ["--log_base_dir", tmp_path, "--exp_name", "run", "--model_key", "UGround", "--device", "cpu", "--no_eval"]
    flags += ["--dataset", "refer_seg", "--sample_rates", "1", "--refer_seg_data", "refcoco", "--batch_size", "2"]
    flags += [
        "--steps_per_epoch",
        "2",
        "--epochs",
        "1",
        "--grad_accumulation_steps",
        "1",
        "--lora_r",
        "0",
        "--workers",
        "0",
    ]
    run(train_ds, *flags, "--unfreeze", "mm_projector,language_model")

    scored = ["--dataset_dir", world, "--val_dataset", "ReasonSeg|val", "--limit", "1", "--device", "cpu"]
    run(eval_script, "--version", tmp_path / "run", *scored, "--max_new_tokens", "4")
    run(merge_lora_weights, "--weight", tmp_path / "run", "--save_path", tmp_path / "hf")
    image = next((world / "reason_seg/ReasonSeg/test").glob("*.jpg"))
    capsys.readouterr()
    run(
        chat,
        "--version",
        tmp_path / "hf",
        "--device",
        "cpu",
        "--image",
        image,
        "--prompt",
        "Where?",
        "--max_new_tokens",
        "4",
    )
    assert capsys.readouterr().out.strip()

    base.main(["--out", str(tmp_path / "again"), "--from_run", str(tmp_path / "run")])

    load = partial(load_model, vision_pretrained=str(tmp_path / "again/sam2_miniature"), system="LISA")
    model, processor, report = load(tmp_path / "again/qwen3_vl")
    trained, _, _ = load_model(tmp_path / "hf")
    rows = len(without_targets(processor.tokenizer))
    assert rows < len(processor.tokenizer), "the tokens of grounding are added when it is loaded"
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "again/qwen3_vl")
    assert theirs.config.text_config.vocab_size == rows
    kept, of_run = (one.language_model.embed_tokens.weight[:rows].float() for one in (model, trained))
    torch.testing.assert_close(kept, of_run, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("decoder", ["weights_qwen3_vl/sam2_miniature", "weights/sam_miniature.pth"])
def test_the_shipped_base_is_small_and_goes_with_the_mask_decoder_of_either(decoder):
    shipped = ROOT / "miniature/weights_qwen3_vl"
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) < 10e6
    model, processor, _ = load_model(
        shipped / "qwen3_vl", system="UGround", vision_pretrained=str(ROOT / "miniature" / decoder)
    )
    assert (model.config.backbone, model.config.mask_decoder) == ("qwen3_vl", "sam2" if "sam2" in decoder else "sam")
    text = "What is to the left of the red mug in this image? Please output segmentation mask."
    assert processor.decode(processor.tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backbone", "qwen3_vl"], "BACKBONE=qwen3_vl OUT="),
        (["--backbone=internvl3"], "the miniature has llava and qwen3_vl"),
        (["--backbone"], "the miniature has llava and qwen3_vl"),
        (["--decoder=sam3"], "--decoder 'sam3': the miniature has sam and sam2"),
        (["--backbone", "qwen3_vl", "--decoder"], "the miniature has sam and sam2"),
    ],
)
def test_a_quickstart_without_its_base_says_how_one_is_made_before_anything_is_written(arguments, said, tmp_path):
    places = {"RUNS": tmp_path / "runs", "DATA": tmp_path / "data", "BASE": tmp_path / "base"}
    done = subprocess.run(
        [ROOT / "scripts/quickstart.sh", *arguments],
        env=os.environ | {name: str(path) for name, path in places.items()},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2 and said in done.stderr
    assert not list(tmp_path.iterdir())


def run(program, *words: object) -> None:
    program.main([str(word) for word in words])
