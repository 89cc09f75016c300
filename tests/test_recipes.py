"""The recipes in `scripts/`: every script names one, says what it starts, and what it starts understands it."""

import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

import app
import chat
import eval as eval_script
import merge_lora_weights
from model.systems import SYSTEMS
from tests.published_recipes import OTHER_RECIPES, UGROUND_RECIPES
from training.arguments import parse_arguments
from training.config import TrainingConfig
from training.config_files import RECIPES, recipe_names

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
LARGE = ("7b_reason_seg_val", "7b_reason_seg_test", "7b_refer_seg", "7b_grefer_seg", "13b_reason_seg_val",
         "13b_reason_seg_test")  # fmt: skip
FOLDERS = (*LARGE, "miniature")
UGROUND = [f"uground_{base}_{baseline}" for base in ("llava1.5", "llava1.6") for baseline in ("ema", "critic")]
OTHERS = [system.lower() for system in SYSTEMS if system != "UGround"]
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


def recipe_of(folder: str, name: str) -> str:
    """The recipe that the scripts of `name` in a folder use: the other systems have one per size."""
    return f"{folder}/{name}" if name in UGROUND else f"{folder.partition('_')[0]}/{name}"


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


@cache
def settings(recipe: str) -> TrainingConfig:
    return parse_arguments(["--recipe", recipe])


@cache
def recipe_file(recipe: str) -> dict:
    return yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))


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


def test_every_recipe_has_scripts_and_a_sentence():
    used = {recipe_of(folder, name) for folder in FOLDERS for name in (*UGROUND, *OTHERS)}
    assert used == set(recipe_names())
    for recipe in used:
        assert recipe_file(recipe)["about"].endswith("."), recipe


def test_a_recipe_shows_its_numbers_whole():
    shown = {"lr", "epochs", "steps_per_epoch", "batch_size", "grad_accumulation_steps", "warmup_num_steps", "lora_r",
             "dice_loss_weight", "dataset", "sample_rates", "val_dataset", "version", "vision_tower", "dataset_dir",
             "model_key", "exp_name", "device"}  # fmt: skip
    for recipe in recipe_names():
        assert shown <= settings(recipe).given, recipe


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


@pytest.mark.parametrize("recipe", [f"{folder}/{name}" for folder in LARGE for name in UGROUND])
def test_the_numbers_of_the_published_recipes(recipe):
    config = settings(recipe)
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
    recipe = recipe_of(folder, name)
    config = settings(recipe)
    found = {flag: getattr(config, flag) for flag in published if flag not in ("data", "gpus")}
    found |= {"data": {family: rate for family, rate in zip(config.families, config.rates, strict=True) if rate}}
    found |= {"gpus": recipe_file(recipe).get("gpus", 1)}
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


# --- what the documents say ------------------------------------------------------------------------------------------


def described(recipe: str) -> str:
    """The row of a recipe in docs/recipes.md."""
    config = settings(recipe)
    equal = len(set(config.rates)) == 1
    trained = []
    for family, share in zip(config.families, config.rates, strict=True):
        sets = config.refer_seg_data.split("||") if {"refer_seg_data", family} <= {*config.given, "refer_seg"} else []
        name = family.removesuffix("_seg") + (f" ({', '.join(sets)})" if sets else "")
        trained.append(name if equal else f"{name} {share:g}")
    every = str(config.eval_interval) if config.eval_interval else "epoch"
    scores = {}
    for source, splits in recipe_file(recipe).get("published", {}).items():
        if "/" in source:  # a checkpoint, not a table of the paper
            for split, score in splits.items():
                scores.setdefault(split, []).append(f"{score['gIoU']:.2f} / {score['cIoU']:.2f}")
    published = "; ".join(f"{split.replace('|', ' ')}: {', '.join(pairs)}" for split, pairs in scores.items())
    cells = (f"`{recipe}`", str(recipe_file(recipe)["lr"]), ", ".join(trained), f"{config.dice_loss_weight:g}",
             f"{config.steps_per_epoch} × {config.epochs}", every, config.val_splits[0].replace("|", " "),
             published or "–")  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_table_of_recipes_is_that_of_the_files():
    rows = [described(recipe) for recipe in recipe_names()]
    numbers = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").partition("## Numbers")[2]
    written = [line for line in numbers.splitlines() if line.startswith("| `")]
    assert written == rows, "the table should be:\n" + "\n".join(rows)


def test_every_checkpoint_of_the_model_zoo_is_beside_its_recipe():
    text = (ROOT / "docs/model_zoo.md").read_text(encoding="utf-8").replace("\\|", "¦")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "/hf-UGround" in line]
    zoo = {(hub_id, split.strip("`").replace("¦", "|"), float(giou), float(ciou))
           for hub_id, _, split, giou, ciou in (row for row in rows if len(row) == 5)}  # fmt: skip
    beside = {(source, split, score["gIoU"], score["cIoU"])
              for recipe in recipe_names()
              for source, splits in recipe_file(recipe).get("published", {}).items() if "/" in source
              for split, score in splits.items()}  # fmt: skip
    assert len(zoo) == 12 and beside <= zoo
    assert all("_mix" in hub_id for hub_id, *_ in zoo - beside)  # no script is published for these


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
