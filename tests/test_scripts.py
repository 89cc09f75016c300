"""The scripts in `scripts/`: each names its recipe, says what it starts, and what it starts understands it."""

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
from tests.recipe_names import FOLDERS, OF_BACKBONES, OTHERS, UGROUND, recipe_of, settings
from training.arguments import parse_arguments
from training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
VARIABLES = ("DATA", "BASE", "LLAVA", "CLIP", "SAM", "RUNS", "VERSION", "GPUS", "DEVICE", "PROCESSES", "LAUNCHER",
             "HOSTFILE", "MASTER_PORT", "HOST", "PORT", "BIN", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # fmt: skip

# What the README of the reference tells its readers to start.
PROMISED = shlex.split("""
7b_reason_seg_val/train_uground_llava1.5_ema                13b_reason_seg_val/train_uground_llava1.5_ema
7b_reason_seg_val/merge_lora_weight_uground_llava1.5_ema    13b_reason_seg_val/merge_lora_weight_uground_llava1.5_ema
7b_reason_seg_val/eval_uground_llava1.5_ema                 13b_reason_seg_val/eval_uground_llava1.5_ema
13b_reason_seg_val/chat_uground                             13b_reason_seg_val/app_uground
7b_reason_seg_val/dataset_demo                              7b_reason_seg_val/start_tensorboard_uground_llava1.5_ema
""")


def calls(folder: str) -> dict[str, str]:
    """What each script of a folder calls."""
    found = {"dataset_demo": f"data_page {recipe_of(folder, UGROUND[0])}", "start_tensorboard": "curves_of_all"}
    for name in (*UGROUND, *OTHERS):
        recipe = recipe_of(folder, name)
        found |= {f"train_{name}": f"train {recipe}", f"merge_lora_weight_{name}": f"merge {recipe}"}
        found |= {f"eval_{name}": f"evaluate {recipe}", f"start_tensorboard_{name}": f"curves {recipe}"}
    for system in ("uground", *OTHERS):
        recipe = recipe_of(folder, UGROUND[0] if system == "uground" else system)
        found |= {f"chat_{system}": f"chat {recipe}", f"app_{system}": f"model_page {recipe} ground"}
        if system in ("uground", "read", "sesame"):
            found[f"test_{system}"] = f"evaluate_false_premises {recipe}"
        if system in ("uground", "read"):
            found[f"{system}_analysis"] = f"model_page {recipe} layers"
        if system == "sesame":
            found["sesame_demo"] = f"chat {recipe}"
    return found


def start(script: str, *arguments: str, timeout: float = 30, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    return subprocess.run(
        [SCRIPTS / f"{script}.sh", *arguments],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )


def dry_run(script: str, *arguments: str, **variables: str) -> list[str]:
    done = start(script, *arguments, DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


@cache
def commands() -> dict[str, list[str]]:
    """What the scripts of the miniature and of one folder start, and those that are promised."""
    scripts = {f"{folder}/{name}" for folder in ("miniature", "7b_grefer_seg") for name in calls(folder)}
    loop = 'for script in "$@"; do printf "%s " "$script"; "$0/$script.sh"; done'
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"DRY_RUN": "1"}
    done = subprocess.run(
        ["bash", "-euc", loop, SCRIPTS, *sorted(scripts | set(PROMISED))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines}


def training_flags(command: list[str]) -> TrainingConfig:
    return parse_arguments(command[command.index("train_ds.py") + 1 :])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_script_is_a_small_file_that_names_its_recipe(folder):
    expected = calls(folder)
    for name, call in expected.items():
        path = SCRIPTS / folder / f"{name}.sh"
        assert path.is_file() and not path.is_symlink() and os.access(path, os.X_OK), path
        first, *comments, source, last = path.read_text(encoding="utf-8").splitlines()
        assert first == "#!/usr/bin/env bash" and source == 'source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"', path
        assert comments and all(line.startswith("# ") for line in comments), path
        assert last == f'{call} "$@"', path
    common = {path.stem for path in (SCRIPTS / folder).glob("*.sh") if "common.sh" in path.read_text(encoding="utf-8")}
    assert common == set(expected)


@pytest.mark.parametrize("recipe", OF_BACKBONES)
def test_the_folders_of_other_backbones_train_merge_score_and_chat(recipe):
    folder, _, system = recipe.partition("/")
    programs = {"train": "train_ds.py", "merge_lora_weight": "merge_lora_weights.py", "eval": "eval.py"}
    for name, program in (programs | {"chat": "chat.py"}).items():
        path = SCRIPTS / folder / f"{name}_{system}.sh"
        assert os.access(path, os.X_OK) and path.read_text(encoding="utf-8").count("\n") == 4, path
        words = dry_run(f"{folder}/{name}_{system}")
        assert program in words, words
        if name == "train":
            assert training_flags(words).to_dict() == settings(recipe).to_dict() | {"recipe": ""}
            assert "--vision_tower" not in words


@pytest.mark.parametrize("script", PROMISED)
def test_what_the_reference_promises_is_there(script):
    folder, _, name = script.partition("/")
    assert name in calls(folder) and commands()[script][0].startswith(".venv/bin/")


def test_every_command_is_understood():
    parsers = {
        "merge_lora_weights.py": merge_lora_weights.build_parser,
        "eval.py": eval_script.build_parser,
        "chat.py": chat.build_parser,
        "app.py": app.build_parser,
    }
    for script, words in commands().items():
        folder, _, name = script.partition("/")
        program = next(word for word in words if word.endswith((".py", "/tensorboard")))
        assert words[0] in {f".venv/bin/{name}" for name in ("python", "deepspeed", "torchrun", "tensorboard")}, script
        if program == "train_ds.py":
            config = settings(recipe_of(folder, name.removeprefix("train_")))
            assert training_flags(words).to_dict() == config.to_dict() | {"recipe": ""}, script
        elif program in parsers:
            parsers[program]().parse(words[words.index(program) + 1 :])


def test_a_script_starts_its_recipe_with_what_the_variables_change(tmp_path):
    for name in ("deepspeed", "python", "torchrun"):
        (tmp_path / name).write_text('#!/usr/bin/env bash\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    paths = {"DATA": "/", "LLAVA": "/usr", "CLIP": "/", "SAM": "/", "BIN": str(tmp_path), "MASTER_PORT": "7"}
    started = start("7b_refer_seg/train_read", "--lr", "1", **paths).stdout.split()
    assert started[started.index("train_ds.py") + 1 :] == shlex.split(
        "--recipe 7b/read --dataset_dir / --version /usr --vision_tower / --vision_pretrained / --lr 1"
    )
    own = {"DATA": "", "BIN": str(tmp_path), "LLAVA": "base", "BASE": "", "RUNS": "elsewhere"}
    (tmp_path / "data").mkdir()
    started = start("miniature/train_lisa", **own | {"DATA": str(tmp_path / "data"), "LLAVA": "/usr"}).stdout.split()
    assert started[started.index("train_ds.py") + 1 :] == shlex.split(
        f"--recipe miniature/lisa --log_base_dir elsewhere --dataset_dir {tmp_path}/data --version /usr"
    )


def test_runs_have_the_references_names_and_find_each_other():
    for folder in FOLDERS:
        for name in UGROUND:
            assert settings(f"{folder}/{name}").run_name == f"UGround-{folder}{name.removeprefix('uground')}"
    for folder in ("miniature", "7b_grefer_seg"):
        for name in (*UGROUND, *OTHERS):
            run = settings(recipe_of(folder, name)).run_name
            merge = commands()[f"{folder}/merge_lora_weight_{name}"]
            merged = f"runs/{run}/hf-{run}"
            assert merge[merge.index("--weight") + 1] == f"runs/{run}"
            assert merge[merge.index("--save_path") + 1] == merged
            assert merged in commands()[f"{folder}/eval_{name}"]
            assert f"runs/{run}" in commands()[f"{folder}/start_tensorboard_{name}"]


def test_pixellm_needs_no_sam(tmp_path):
    for name in ("llava-v1.6-vicuna-7b", "clip-vit-large-patch14-336"):
        (tmp_path / name).mkdir()
    done = start("7b_refer_seg/train_pixellm", DATA=str(tmp_path), BIN="/no/bin")
    assert "./build.sh makes the environment" in done.stderr  # got past the base models
    assert "--vision_pretrained" not in dry_run("7b_refer_seg/train_pixellm", SAM="sam.pth")


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
        ("7b_refer_seg/train_read", {"DATA": "/no/data"}, "/no/data does not exist"),
        ("7b_refer_seg/train_read", {"DATA": "/"}, "/llava-v1.6-vicuna-7b does not exist: the base model"),
        ("7b_refer_seg/train_read", {"DATA": "/", "LLAVA": "/"}, "set CLIP to where it is"),
        ("miniature/train_read", {"SAM": "no.pth", "DATA": "/"}, "no.pth does not exist"),
        ("miniature/train_read", {"BIN": "/no/bin", "DATA": "/"}, "./build.sh makes the environment"),
        ("7b_refer_seg/merge_lora_weight_read", {"RUNS": "/no"}, "/no/READ-7b does not exist: the run to merge"),
        ("7b_refer_seg/eval_read", {"RUNS": "/no", "DATA": "/"}, "hf-READ-7b does not exist: the trained model"),
        ("7b_refer_seg/chat_read", {"VERSION": "/no"}, "/no does not exist: the trained model"),
        ("7b_refer_seg/app_read", {"DATA": "/no"}, "/no does not exist: the root of the data sets"),
        ("7b_refer_seg/dataset_demo", {"DATA": "/no"}, "/no does not exist: the root of the data sets"),
        ("7b_refer_seg/start_tensorboard", {"RUNS": "/no"}, "/no does not exist: the run to show"),
        ("7b_refer_seg/train_read", {"LAUNCHER": "mpi", "DATA": "/", "LLAVA": "/", "CLIP": "/", "SAM": "/"}, "mpi"),
        ("miniature/train_read", {"BIN": "/no/bin", "DRY_RUN": "1"}, "./build.sh makes the environment"),
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
    one_each = {call.split()[0]: SCRIPTS / f"miniature/{name}.sh" for name, call in calls("miniature").items()}
    done = subprocess.run(
        [shellcheck, SCRIPTS / "common.sh", *one_each.values()], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
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
