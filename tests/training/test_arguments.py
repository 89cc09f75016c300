import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dataloaders.settings import data_settings
from groundscore.errors import UserError
from model.settings import model_overrides
from training.arguments import build_parser, parse_arguments

ROOT = Path(__file__).parents[2]

RECIPE = shlex.split("""
--local_rank=0 --model_key=UGround --version=../dataset_sesame/llava-v1.5-7b --dataset_dir=../dataset_sesame
--vision_tower=../dataset_sesame/clip-vit-large-patch14-336 --dataset=sem_seg||refer_seg||reason_seg
--vision_pretrained=../dataset_sesame/sam_vit_h_4b8939.pth --sample_rates=12,12,12 --val_dataset=ReasonSeg|test
--exp_name=UGround-7b_reason_seg_test_llava1.5_ema --seg_token_num=1 --num_classes_per_question=3 --batch_size=2
--num_classes_per_sample=3 --epochs=30 --steps_per_epoch=1000 --grad_accumulation_steps=10 --lr=3e-4 --lora_r=8
--use_expand_question_list --image_feature_scale_num=1 --separate_mm_projector --warmup_min_lr=0 --eval_interval=10
--warmup_num_steps=100 --dice_loss_weight=4 --resume_from_best --save_ckpt --num_layers=33 --strategy=policy_walker
--mode=3 --baseline_type=ema --baseline_beta=1.0 --eval_legacy --pad_train_clip_images --auto_resume
--preprocessor_config=./configs/preprocessor_336.json --explanatory=0.1 --negative_sampling_weight=-1
""")


def test_a_recipe_of_the_reference_parses():
    config = parse_arguments(RECIPE)
    assert config.families == ["sem_seg", "refer_seg", "reason_seg"]
    assert config.rates == [12, 12, 12]
    assert config.total_steps == 30_000
    assert config.resume_from_best and config.save_ckpt and config.auto_resume
    assert config.negative_sampling_weight == -1
    assert config.run_name == "UGround-7b_reason_seg_test_llava1.5_ema"


def test_only_what_is_given_overrides_the_model():
    assert model_overrides(vars(parse_arguments([]))) == {}
    assert model_overrides(vars(parse_arguments(RECIPE))) == {
        "seg_token_num": 1,
        "image_feature_scale_num": 1,
        "separate_mm_projector": True,
        "mode": 3,
        "estimator": "sample",
        "baseline_type": "ema",
        "baseline_beta": 1.0,
        "eval_legacy": True,
        "pad_train_clip_images": True,
    }


def test_points_and_fusion_are_settings():
    config = parse_arguments(
        ["--read_num_points", "30", "--read_t_pos=0.6", "--read_t_neg=0.1", "--read_down_sample", "2", "--train_fusion"]
    )
    assert model_overrides(vars(config)) == {
        "read_num_points": 30,
        "read_t_pos": 0.6,
        "read_t_neg": 0.1,
        "read_down_sample": 2,
    }
    assert config.train_fusion
    for mistake in ("--read_t_pos=1.5", "--read_num_points=0", "--llm_image_grid=0"):
        with pytest.raises(UserError, match=mistake.partition("=")[0]):
            parse_arguments([mistake])


def test_what_would_train_wrongly_is_refused_with_the_reason():
    with pytest.raises(UserError, match="--cache_features: with --zero_stage 3 all processes"):
        parse_arguments(["--zero_stage", "3", "--cache_features", "features"])


def test_defaults_are_the_reference_s():
    config = parse_arguments([])
    assert (config.model_key, config.run_name) == ("UGround", "UGround")
    assert (config.lr, config.beta1, config.beta2) == (3e-4, 0.9, 0.95)
    assert (config.batch_size, config.grad_accumulation_steps, config.steps_per_epoch, config.epochs) == (
        2,
        10,
        500,
        20,
    )
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.05)
    assert config.rates == [12, 9, 3, 3, 3, 3, 3, 3]
    assert config.pack and config.auto_resume and config.gradient_checkpointing and config.zero_stage == 2


def test_defaults_of_the_data_are_the_reference_s_and_those_of_the_mixture():
    config = parse_arguments([])
    for name, value in vars(data_settings()).items():
        assert getattr(config, name) == value, name
    assert len(config.families) == 8 and "custom" not in config.families
    assert config.sem_seg_data.split("||") == ["ade20k", "cocostuff", "pascal_part", "paco_lvis", "mapillary"]
    assert (config.num_classes_per_sample, config.num_classes_per_question) == (3, 1)
    assert (config.explanatory, config.negative_sampling_weight) == (0.1, -1.0)
    assert (config.exclude_val, config.use_expand_question_list, config.skip_bad_samples) == (False, False, 0.01)


def test_own_data_is_a_family():
    own = ["--dataset", "custom||vqa", "--sample_rates", "1,1", "--custom_data", "pets", "--val_dataset", "custom|pets"]
    config = parse_arguments([*own, "--exclude_val", "--skip_bad_samples", "0.01"])
    assert config.families == ["custom", "vqa"]
    assert (config.custom_data, config.exclude_val, config.skip_bad_samples) == ("pets", True, 0.01)


@pytest.mark.parametrize("name", ["uground", "LISA", "pixellm"])
def test_the_system_is_found_in_any_case(name):
    assert parse_arguments(["--model_key", name]).model_key.lower() == name.lower()


def test_hyphens_stand_for_underscores_in_flags_only():
    config = parse_arguments(["--vision-tower=a-b", "--exp-name", "my-run", "--num-workers", "3"])
    assert (config.vision_tower, config.exp_name, config.workers) == ("a-b", "my-run", 3)


def test_switches_can_be_turned_off():
    flags = ["--no_train_mask_decoder", "--no_gradient_checkpointing", "--plain_rows", "--no_resume", "--no_save_ckpt"]
    config = parse_arguments(flags)
    assert not any(
        (config.train_mask_decoder, config.gradient_checkpointing, config.pack, config.auto_resume, config.save_ckpt)
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model_key", "SAM"], ["--model_key SAM", "UGround", "GSVA"]),
        (["--lora_rr", "8"], ["--lora_rr", "did you mean --lora_r?"]),
        (["--vis_save_path=x"], ["--vis_save_path", "chat.py"]),
        (["--load_in_4bit"], ["--load_in_4bit", "chat.py"]),
        (["--lr", "fast"], ["--lr", "fast"]),
        (["--lr", "0"], ["--lr 0"]),
        (["--lr", "nan"], ["--lr nan: must be a finite number"]),
        (["--dice_loss_weight", "inf"], ["--dice_loss_weight inf"]),
        (["--dataset", "vqa", "--sample_rates", "nan"], ["--sample_rates nan"]),
        (["--exp_name", "../up"], ["--exp_name ../up: a name below"]),
        (["--exp_name", "a/../../up"], ["a name below"]),
        (["--dataset", "vqa||reason_seg", "--sample_rates", "1"], ["--sample_rates", "2 families"]),
        (["--dataset", "vqa", "--sample_rates", "0"], ["--sample_rates"]),
        (["--dataset", "vqa", "--sample_rates", "a"], ["--sample_rates a"]),
        (["--dataset", "vqa||vqa", "--sample_rates", "1,1"], ["--dataset", "twice"]),
        (["--mode", "0"], ["--mode", "0"]),
        (["--val_dataset", "ReasonSeg"], ["--val_dataset ReasonSeg", "name|split"]),
        (["--unfreeze", "clip"], ["--unfreeze clip", "vision_tower"]),
        (["--unfreeze", "language_model"], ["--lora_r 0"]),
        (["--dataset", "custom", "--sample_rates", "1"], ["--custom_data"]),
        (["--skip_bad_samples", "1"], ["--skip_bad_samples 1"]),
        (["--batch_size", "0"], ["--batch_size 0"]),
        (["--layer", "first"], ["--layer first"]),
        (["--no_eval", "--eval_only"], ["--no_eval"]),
        (["sem_seg", "refer_seg"], ["sem_seg"]),
    ],
)
def test_a_wrong_flag_is_named_with_the_remedy(argv, words):
    with pytest.raises(UserError) as caught:
        parse_arguments(argv)
    for word in words:
        assert word in str(caught.value)


def test_help_answers_without_heavy_imports():
    program = (
        "import sys\n"
        "try:\n"
        "    import train_ds; train_ds.main(['--help'])\n"
        "except SystemExit as stop:\n"
        "    heavy = {'torch', 'transformers', 'deepspeed', 'peft'} & set(sys.modules)\n"
        "    sys.exit(stop.code or (f'imported {heavy}' if heavy else 0))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for flag in ("--model_key", "--zero_stage", "--plain_rows", "--no_eval", "--unfreeze"):
        assert flag in result.stdout


FLASH = ["--attn_implementation", "flash_attention_2"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "packed rows.*add --plain_rows"),
        (["--plain_rows", "--pad_train_clip_images"], "cannot mask the padding"),
        (["--plain_rows", "--device", "cpu"], "leave it out, or --device cpu"),
        (["--plain_rows", "--precision", "fp32"], "leave it out, or --precision fp32"),
    ],
)
def test_flash_attention_is_refused_beside_what_it_cannot_express(flags, words):
    with pytest.raises(UserError, match=f"--attn_implementation flash_attention_2: .*{words}"):
        parse_arguments([*FLASH, *flags])


def test_flash_attention_takes_plain_rows_of_cropped_images():
    config = parse_arguments([*FLASH, "--plain_rows", "--no_pad_train_clip_images"])
    assert config.attn_implementation == "flash_attention_2" and not config.pack


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_is_grouped_fits_the_terminal_and_has_a_short_form(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    short, whole = build_parser(common=True).format_help(), build_parser().format_help()

    for text in (short, whole):
        assert "the opposite of" not in text and "--plain_rows  " not in text
        assert [line for line in text.splitlines() if len(line) > max(columns, 70)] == []
    shown = re.findall(r"^  --(\w+)", short, re.MULTILINE)
    assert len(set(shown) - {"help", "plugin"}) == 20
    assert {"version", "dataset_dir", "dataset", "lr", "batch_size", "epochs", "exp_name", "dry_run"} < set(shown)
    assert "train_ds.py --help" in short and "train_ds.py -h" in whole
    assert re.search(r"--plain_rows\s+turns\s+it\s+off", whole)


def test_the_short_help_is_printed_before_anything_is_checked(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["-h"])
    assert stop.value.code == 0
    assert "--batch_size" in (printed := capsys.readouterr().out) and "--beta1" not in printed
