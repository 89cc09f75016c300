"""The recipes in `scripts/`: all are there, say what they start, and what they start understands them."""

import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import app
import chat
import eval as eval_script
import merge_lora_weights
from model.systems import SYSTEMS
from tests.published_recipes import OTHER_RECIPES, UGROUND_RECIPES
from training.arguments import parse_arguments
from training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
LARGE = ("7b_reason_seg_val", "7b_reason_seg_test", "7b_refer_seg", "7b_grefer_seg", "13b_reason_seg_val",
         "13b_reason_seg_test")  # fmt: skip
FOLDERS = (*LARGE, "miniature")
UGROUND = [f"uground_{base}_{baseline}" for base in ("llava1.5", "llava1.6") for baseline in ("ema", "critic")]
OTHERS = [system.lower() for system in SYSTEMS if system != "UGround"]
NAMES = sorted(
    [f"{action}_{recipe}" for action in ("train", "merge_lora_weight", "eval", "start_tensorboard")
     for recipe in (*UGROUND, *OTHERS)]
    + [f"{action}_{system}" for action in ("chat", "app") for system in ("uground", *OTHERS)]
    + ["test_uground", "test_read", "test_sesame", "uground_analysis", "read_analysis", "sesame_demo", "dataset_demo",
       "start_tensorboard"]
)  # fmt: skip
RECIPES = [f"{folder}/{name}" for folder in FOLDERS for name in NAMES]
VARIABLES = ("DATA", "BASE", "LLAVA", "CLIP", "SAM", "RUNS", "VERSION", "GPUS", "DEVICE", "PROCESSES", "LAUNCHER",
             "HOSTFILE", "MASTER_PORT", "HOST", "PORT", "BIN", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # fmt: skip


def start(recipe: str, *arguments: str, timeout: float = 30, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    return subprocess.run(
        [SCRIPTS / f"{recipe}.sh", *arguments],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )


def dry_run(recipe: str, *arguments: str, **variables: str) -> list[str]:
    done = start(recipe, *arguments, DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


@cache
def all_commands() -> dict[str, list[str]]:
    """What every recipe would start, asked for by one shell."""
    loop = 'for recipe in "$@"; do printf "%s " "$recipe"; "$0/$recipe.sh"; done'
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"DRY_RUN": "1"}
    done = subprocess.run(
        ["bash", "-euc", loop, SCRIPTS, *RECIPES], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines}


def training_flags(command: list[str]) -> TrainingConfig:
    return parse_arguments(command[command.index("train_ds.py") + 1 :])


def test_every_folder_has_every_recipe():
    for folder in FOLDERS:
        present = {path.stem for path in (SCRIPTS / folder).glob("*.sh")}
        assert set(NAMES) <= present, sorted(set(NAMES) - present)
    for recipe in RECIPES:
        path = SCRIPTS / f"{recipe}.sh"
        assert os.access(path, os.X_OK), f"chmod +x {path}"
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 20, f"{path}: what is common belongs to common.sh"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_command_is_understood(folder):
    parsers = {
        "merge_lora_weights.py": merge_lora_weights.build_parser,
        "eval.py": eval_script.build_parser,
        "chat.py": chat.build_parser,
        "app.py": app.build_parser,
    }
    commands = {recipe: words for recipe, words in all_commands().items() if recipe.startswith(f"{folder}/")}
    assert len(commands) == len(NAMES)
    for recipe, words in commands.items():
        program = next(word for word in words if word.endswith((".py", "/tensorboard")))
        assert words[0] in {f".venv/bin/{name}" for name in ("python", "deepspeed", "torchrun", "tensorboard")}, recipe
        if program == "train_ds.py":
            config = training_flags(words)
            assert config.run_name.startswith(config.model_key)
        elif program in parsers:
            parsers[program]().parse(words[words.index(program) + 1 :])


def test_runs_have_the_references_names_and_find_each_other():
    commands = all_commands()
    for folder in FOLDERS:
        for name in (*UGROUND, *OTHERS):
            run = training_flags(commands[f"{folder}/train_{name}"]).run_name
            if name in UGROUND:
                assert run == f"UGround-{folder}{name.removeprefix('uground')}"
            merge = commands[f"{folder}/merge_lora_weight_{name}"]
            merged = f"runs/{run}/hf-{run}"
            assert merge[merge.index("--weight") + 1] == f"runs/{run}"
            assert merge[merge.index("--save_path") + 1] == merged
            assert merged in commands[f"{folder}/eval_{name}"]
            assert f"runs/{run}" in commands[f"{folder}/start_tensorboard_{name}"]


@pytest.mark.parametrize("recipe", [f"{folder}/train_{name}" for folder in LARGE for name in UGROUND])
def test_the_numbers_of_the_published_recipes(recipe):
    config = training_flags(all_commands()[recipe])
    assert (config.mode, config.eval_legacy) == (3, None)  # the policy is on, in training and after it
    assert config.baseline_type == recipe.rpartition("_")[2]
    assert "test" not in config.val_dataset  # never selected on a test split
    assert (config.batch_size, config.grad_accumulation_steps, config.warmup_num_steps) == (2, 10, 100)
    assert (config.ce_loss_weight, config.bce_loss_weight, config.dice_loss_weight) == (1, 2, 4)
    assert config.num_classes_per_question == 3 and config.use_expand_question_list and config.pad_train_clip_images
    size = recipe.partition("_")[0]
    assert config.lora_r == {"7b": 8, "13b": 64}[size]
    assert config.version == f"dataset/llava-v1.5-{size}" if "1.5" in recipe else f"dataset/llava-v1.6-vicuna-{size}"
    if "1.6" in recipe:
        assert config.lr == 1e-4


# Where our recipes differ from the published ones on purpose; docs/recipes.md gives the reasons, by these flags.
EVERYWHERE = {"resume_from_best", "separate_mm_projector"}
POLICY_ON = {"mode", "eval_legacy"}
COPIES = {"data", "val_dataset", "steps_per_epoch", "eval_interval", "epochs", "gpus", "refer_seg_data"}
COPIES |= {"resize_vision_tower", "resize_vision_tower_size"}  # 1.6 in the refer folders: copies of another recipe


def documented_differences(folder: str, name: str) -> set[str]:
    allowed = set(EVERYWHERE)
    if name in UGROUND:
        allowed |= POLICY_ON
        if "refer_seg" in folder and "1.6" in name:
            allowed |= COPIES
        if folder.endswith(("_test", "grefer_seg")):
            allowed.add("val_dataset")
    else:
        allowed |= {"lora_r"} if folder.startswith("13b") else set()
        allowed |= {"val_dataset"} if name == "lisa" else set()
        allowed -= {"separate_mm_projector"} if name == "pixellm" else set()
    return allowed


@pytest.mark.parametrize("name", [*UGROUND, *OTHERS])
@pytest.mark.parametrize("folder", LARGE)
def test_every_number_is_the_published_one_or_documented(folder, name):
    size = folder.partition("_")[0]
    if name in UGROUND:
        published = UGROUND_RECIPES[folder][name.removeprefix("uground_")] | {"lora_r": {"7b": 8, "13b": 64}[size]}
        published |= {"baseline_type": name.rpartition("_")[2], "seg_token_num": 1, "image_feature_scale_num": 1}
    else:
        published = OTHER_RECIPES[name]
    command = all_commands()[f"{folder}/train_{name}"]
    config = training_flags(command)
    found = {flag: getattr(config, flag) for flag in published if flag not in ("data", "gpus")}
    found |= {"data": {family: rate for family, rate in zip(config.families, config.rates, strict=True) if rate}}
    found |= {"gpus": len(command[command.index("--include") + 1].split(","))}
    defaults = {"eval_legacy": False, "seg_token_num": 1, "image_feature_scale_num": 1, "pad_train_clip_images": False}
    differing = {flag for flag, value in published.items() if (found[flag] or defaults.get(flag, found[flag])) != value}
    assert differing <= documented_differences(folder, name), {
        flag: (published[flag], found[flag]) for flag in differing
    }
    prose = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").partition("## Where they differ")[2]
    undocumented = {flag for flag in differing - {"data", "gpus"} if f"`--{flag}" not in prose}
    assert not undocumented, f"docs/recipes.md, Where they differ, does not name {undocumented}"


def test_pixellm_needs_no_sam(tmp_path):
    for name in ("llava-v1.6-vicuna-7b", "clip-vit-large-patch14-336"):
        (tmp_path / name).mkdir()
    done = start("7b_refer_seg/train_pixellm", DATA=str(tmp_path), BIN="/no/bin")
    assert "./build.sh makes the environment" in done.stderr  # got past the base models
    assert "--vision_pretrained" not in all_commands()["7b_refer_seg/train_pixellm"]


def test_variables_and_arguments_change_what_is_started():
    words = dry_run("7b_refer_seg/train_uground_llava1.5_ema", "--lr", "7", DATA="/data", GPUS="2,3", MASTER_PORT="77")
    assert words[:5] == [".venv/bin/deepspeed", "--include", "localhost:2,3", "--master_port", "77"]
    assert training_flags(words).lr == 7
    assert training_flags(words).dataset_dir == "/data" and training_flags(words).version == "/data/llava-v1.5-7b"
    assert "localhost:5" in dry_run("7b_refer_seg/train_read", CUDA_VISIBLE_DEVICES="5")
    assert "localhost:0,1" in dry_run("7b_refer_seg/train_gsva")
    words = dry_run("7b_refer_seg/train_read", GPUS="MIG-a/1/0,MIG-b/1/0")  # names are nothing for deepspeed
    assert words[:4] == [".venv/bin/torchrun", "--standalone", "--nproc_per_node", "2"]
    assert dry_run("7b_refer_seg/train_read", LAUNCHER="none")[:2] == [".venv/bin/python", "train_ds.py"]
    assert dry_run("7b_refer_seg/train_read", SLURM_STEP_NUM_TASKS="2")[:2] == [".venv/bin/python", "train_ds.py"]
    assert dry_run("7b_refer_seg/train_read", HOSTFILE="hosts")[1:3] == ["--hostfile", "hosts"]
    assert dry_run("miniature/train_read", PROCESSES="3")[3] == "3"
    assert "elsewhere/hf" in dry_run("7b_refer_seg/chat_uground", VERSION="elsewhere/hf")
    for page in ("app_uground", "dataset_demo", "start_tensorboard"):
        words = dry_run(f"7b_refer_seg/{page}", HOST="::1", PORT="7")
        assert words[words.index("--host") :][:4] == ["--host", "::1", "--port", "7"]


@pytest.mark.parametrize(
    ("recipe", "variables", "complaint"),
    [
        ("7b_refer_seg/train_read", {"DATA": "/no/data"}, "/no/data is not there"),
        ("7b_refer_seg/train_read", {"DATA": "/"}, "/llava-v1.6-vicuna-7b is not there: the base model"),
        ("7b_refer_seg/train_read", {"DATA": "/", "LLAVA": "/"}, "set CLIP to where it is"),
        ("miniature/train_read", {"SAM": "no.pth", "DATA": "/"}, "no.pth is not there"),
        ("miniature/train_read", {"BIN": "/no/bin", "DATA": "/"}, "./build.sh makes the environment"),
        ("7b_refer_seg/merge_lora_weight_read", {"RUNS": "/no"}, "/no/READ-7b is not there: the run to merge"),
        ("7b_refer_seg/eval_read", {"RUNS": "/no", "DATA": "/"}, "hf-READ-7b is not there: the trained model"),
        ("7b_refer_seg/chat_read", {"VERSION": "/no"}, "/no is not there: the trained model"),
        ("7b_refer_seg/app_read", {"DATA": "/no"}, "/no is not there: the root of the data sets"),
        ("7b_refer_seg/dataset_demo", {"DATA": "/no"}, "/no is not there: the root of the data sets"),
        ("7b_refer_seg/start_tensorboard", {"RUNS": "/no"}, "/no is not there: the run to show"),
        ("7b_refer_seg/train_read", {"LAUNCHER": "mpi", "DATA": "/", "LLAVA": "/", "CLIP": "/", "SAM": "/"}, "mpi"),
        ("shared/eval", {}, "start it there, for example scripts/miniature/eval"),
    ],
)
def test_what_is_missing_is_said(recipe, variables, complaint):
    done = start(recipe, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and complaint in done.stderr, done.stderr


def test_help_tells_what_a_recipe_is_and_what_can_be_set():
    done = start("7b_grefer_seg/train_uground_llava1.5_critic", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ./scripts/7b_grefer_seg/train_uground_llava1.5_critic.sh")
    assert "UGround on LLaVA-1.5-7B" in done.stdout and "common.sh" not in done.stdout
    for name in set(VARIABLES) - {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}:
        assert name in done.stdout


def test_shellcheck_is_content():
    shellcheck = ROOT / ".venv/bin/shellcheck"
    if not shellcheck.is_file():
        pytest.skip("shellcheck is not installed: ./build.sh --dev")
    files = {path for path in SCRIPTS.glob("**/*.sh") if not path.is_symlink()}
    done = subprocess.run([shellcheck, *sorted(files)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


# --- for real, on the miniature --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def miniature(tmp_path_factory) -> dict[str, str]:
    """Variables: a few pictures of the miniature, the shipped base, and a place for runs."""
    root = tmp_path_factory.mktemp("recipes")
    command = [sys.executable, "-m", "miniature.data", "--out", str(root / "data"), "--scale", "0.03"]
    command += ["--sets", "ade20k,refcoco,grefcoco,reason_seg,llava"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return {"DATA": str(root / "data"), "RUNS": str(root / "runs"), "BIN": str(Path(sys.executable).parent)}


def train_a_little(name: str, miniature: dict[str, str]) -> None:
    flags = ["--steps_per_epoch", "2", "--epochs", "1", "--batch_size", "2", "--val_limit", "2"]
    done = start(f"miniature/train_{name}", *flags, timeout=300, **miniature)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated" in done.stdout + done.stderr


def test_train_merge_evaluate_and_chat(miniature):
    train_a_little("uground_llava1.5_ema", miniature)
    done = start("miniature/merge_lora_weight_uground_llava1.5_ema", timeout=300, **miniature)
    assert done.returncode == 0, done.stderr
    assert "answers as the run does" in done.stdout
    flags = ["--val_dataset", "ReasonSeg|val", "--answer", "given", "--limit", "2"]
    done = start("miniature/eval_uground_llava1.5_ema", *flags, timeout=300, **miniature)
    assert done.returncode == 0, done.stderr
    assert "gIoU" in done.stdout
    picture = next(Path(miniature["DATA"]).glob("reason_seg/ReasonSeg/val/*.jpg"))
    flags = ["--image", str(picture), "--prompt", "What is the red thing?", "--max_new_tokens", "4"]
    flags += ["--vis_save_path", miniature["RUNS"]]
    done = start("miniature/chat_uground", *flags, timeout=300, **miniature)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*UGROUND, *OTHERS) if name != "uground_llava1.5_ema"])
def test_every_system_trains_merges_and_is_evaluated(name, miniature):
    train_a_little(name, miniature)
    done = start(f"miniature/merge_lora_weight_{name}", timeout=300, **miniature)
    assert done.returncode == 0 and "answers as the run does" in done.stdout, done.stderr
    flags = ["--val_dataset", "ReasonSeg|val", "--limit", "2", "--max_new_tokens", "8"]
    done = start(f"miniature/eval_{name}", *flags, timeout=300, **miniature)
    assert done.returncode == 0, done.stderr
