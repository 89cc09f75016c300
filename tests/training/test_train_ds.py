"""`train_ds.py` as a user runs it: a process, its exit code and what it leaves."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.programs import run_program
from tests.tiny import picture, tiny_model

ROOT = Path(__file__).parents[2]


def launch_environment() -> dict[str, str]:
    """Ours without what a launcher may have left in it."""
    launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    ours = {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}  # as on a terminal of this width
    return {name: value for name, value in os.environ.items() if name not in launchers} | ours


def run_train_ds(*arguments, processes=1, timeout=300, forked=True):
    """forked: from a process that has imported everything, see `run_program`; otherwise started as a user does."""
    if forked and processes == 1:
        return run_program("train_ds.py", arguments, launch_environment(), timeout=timeout)
    launcher = [sys.executable]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*launcher, "train_ds.py", *map(str, arguments)],
        cwd=ROOT,
        env=launch_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model_key", "nothing"], ["--model_key nothing", "UGround"]),
        (["--batchsize", "2"], ["--batchsize", "--batch_size"]),
        (["--dataset_dir", "/nowhere"], ["--dataset_dir /nowhere"]),
        (["--dataset_dir", ".", "--version", "./nowhere"], ["--version ./nowhere"]),
        (["--dataset_dir", ".", "--version", ".", "--vision_pretrained", "/no/sam.pth"], ["/no/sam.pth"]),
        (["--dataset_dir", ".", "--version", ".", "--resume", "/no/run"], ["--resume /no/run"]),
        (
            ["--dataset_dir", ".", "--version", ".", "--device", "cpu", "--precision", "fp16"],
            ["--precision fp16", "fp32 or bf16"],
        ),
    ],
)
def test_a_mistake_ends_with_code_2_and_no_traceback(arguments, words):
    done = run_train_ds(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny base model and a ReasonSeg of a few pictures on disk: the flags that name them, and where runs go."""
    from checkpoints import save_model

    root = tmp_path_factory.mktemp("world")
    write_reason_seg(root / "dataset")
    save_model(*tiny_model(), root / "base")
    flags = ["--version", root / "base", "--dataset_dir", root / "dataset", "--log_base_dir", root / "runs"]
    return flags, root / "runs"


def write_reason_seg(root: Path) -> None:
    for split in ("train", "val"):
        folder = root / "reason_seg" / "ReasonSeg" / split
        folder.mkdir(parents=True)
        for number in range(3):
            Image.fromarray(picture(number, 40, 56)).save(folder / f"{number}.jpg")
            left = 4 + 8 * number
            points = [[left, 6], [left + 20, 6], [left + 20, 30], [left, 30]]
            shape = {"label": "target", "points": points}
            record = {"text": ["the red ball", "the one near the tree"], "is_sentence": False, "shapes": [shape]}
            (folder / f"{number}.json").write_text(json.dumps(record))


TRAINING = """
    --dataset reason_seg --sample_rates 1 --explanatory -1 --val_dataset ReasonSeg|val --epochs 2 --steps_per_epoch 2
    --batch_size 2 --grad_accumulation_steps 2 --warmup_num_steps 1 --lora_r 2 --workers 1 --device cpu
""".split()  # noqa: SIM905


def test_training_leaves_checkpoints_scores_and_records_and_goes_on(world):
    flags, runs = world
    done = run_train_ds(*flags, *TRAINING, "--exp_name", "one", forked=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 4/4" in done.stdout and "the best by ReasonSeg|val so far" in done.stdout
    run = runs / "one"
    assert [path.name for path in (run / "ckpt_model").glob("global_step*")] == ["global_step4"]
    assert len(list((run / "best_ckpt_model").glob("global_step*"))) == 1
    scores = json.loads((run / "scores.json").read_text())
    assert [entry["step"] for entry in scores["evaluations"]] == [2, 4]
    assert 0 <= scores["best"]["cIoU"] <= 1
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "policy/entropy", "policy/layers", "train/lr"} <= set(steps[0])
    assert list((run / "tensorboard").glob("events*"))

    longer = run_train_ds("--config", run / "config.yaml", "--epochs", "3", "--answer", "generated")
    assert longer.returncode == 0, longer.stdout + longer.stderr
    assert "at step 4 of 6" in longer.stdout and "step 6/6" in longer.stdout
    assert re.search("epochs +2 → 3\n +answer +given → generated\n", longer.stdout)

    assert "epochs: 3\n" in (run / "config.yaml").read_text()  # of the newest launch

    other = run_train_ds(*flags, *TRAINING, "--exp_name", "one", "--lora_r", "4")
    assert other.returncode == 2 and "Traceback" not in other.stderr
    assert "trained with --lora_r 2" in other.stderr and "this run has --lora_r 4" in other.stderr

    scored = run_train_ds(*flags, *TRAINING, "--exp_name", "one", "--eval_only", "--resume", run)
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert "ReasonSeg|val  given answers  gIoU" in scored.stdout


def test_own_data_trains_and_what_is_bad_in_it_is_listed(world, tmp_path):
    flags, runs = world
    shutil.copytree(ROOT / "dataloaders/example/custom", tmp_path / "custom")
    lines = (tmp_path / "custom/shapes.jsonl").read_text().splitlines()
    maskless = {"image": "images/01.jpg", "conversations": [[{"question": "Where?", "answer": "[SEG]"}]]}
    (tmp_path / "custom/shapes.jsonl").write_text("\n".join([*lines, json.dumps(maskless)]))
    own = ["--dataset_dir", tmp_path, "--dataset", "custom", "--custom_data", "shapes", "--skip_bad_samples", "0.1"]
    done = run_train_ds(*flags, *TRAINING, *own, "--epochs", "1", "--no_eval", "--exp_name", "own")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2/2" in done.stdout
    listed = [json.loads(line) for line in (runs / "own/bad_samples.jsonl").read_text().splitlines()]
    assert ["shapes.jsonl: line 11" in entry["reason"] for entry in listed] == [True]


def test_a_checkpoint_gives_back_the_model_that_was_trained(world):
    from checkpoints.runs import find_checkpoint, trained_weights
    from checkpoints.runs.restoring import load_trained

    flags, runs = world
    done = run_train_ds(*flags, *TRAINING, "--exp_name", "kept", "--model_key", "lisa", "--no_eval", "--lora_r", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    model, _, settings = load_trained(runs / "kept")
    assert model.config.system == settings["model"]["system"] == "LISA"
    weights = trained_weights(find_checkpoint(runs / "kept" / "ckpt_model"))
    base, _ = tiny_model("LISA")
    name = "language_model.layers.0.mlp.up_proj.weight"
    assert model.get_parameter(name).equal(weights[name])
    assert not model.get_parameter(name).equal(base.get_parameter(name))
    assert model.get_parameter("mm_projector.0.weight").equal(base.get_parameter("mm_projector.0.weight"))


def test_two_processes_train_together(world):
    flags, runs = world
    done = run_train_ds(*flags, *TRAINING, "--exp_name", "two", processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (runs / "two" / "ckpt_model" / "global_step4" / "random_state_rank_1.pt").exists()
    log = (runs / "two" / "meta.log").read_text()
    assert "[0] epoch 2/2  step 4/4" in log and "[0] ended after" in log and "[1] ended after" in log
    alone = run_train_ds(*flags, *TRAINING, "--exp_name", "two", "--epochs", "3", "--zero_stage", "0")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert "at step 4 of 6" in alone.stdout and "step 6/6" in alone.stdout
    assert re.search(r"processes +2 → 1\n", alone.stdout) and re.search(r"zero_stage +2 → 0\n", alone.stdout)
    assert "--grad_accumulation_steps 4" in alone.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num_layers", "33"], ["--num_layers 33", "4 hidden states"]),
        (["--lora_target_modules", "up"], ["--lora_target_modules up"]),
    ],
)
def test_what_does_not_fit_the_model_or_the_data_is_said_before_training(world, arguments, words):
    flags, runs = world
    done = run_train_ds(*flags, *TRAINING, "--exp_name", "wrong", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not list((runs / "wrong").glob("*ckpt*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--val_dataset", "ReasonSeg|Val"], ["train, val", "Did you mean 'val'?"]),
        (["--val_dataset", "Reasonseg|val"], ["Did you mean 'ReasonSeg|val'?"]),
        (["--dataset", "reasonseg"], ["Did you mean 'reason_seg'?"]),
        (["--reason_seg_data", "ReasonSeg|trian"], ["Did you mean 'train'?"]),
    ],
)
def test_a_misspelt_name_is_said_before_anything_else_and_leaves_nothing(world, arguments, words):
    flags, runs = world
    done = run_train_ds(*flags, *TRAINING, "--exp_name", "misspelt", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not list(runs.glob("*misspelt*")) and not list(runs.glob(".misspelt*"))


def test_a_dry_run_says_what_is_needed_and_leaves_nothing(world):
    flags, runs = world
    done = run_train_ds(*flags, *TRAINING, "--exp_name", "dry", "--dry_run", processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("Data", "Parameters", "Training", "Largest batch", "Memory of a process (cpu), MiB", "Time"):
        assert f"\n{title}\n" in done.stdout
    estimated, measured = re.search(r"between steps +([\d.]+) +([\d.]+)", done.stdout).groups()
    assert 0.5 < float(estimated) / float(measured) <= 1
    assert "4 steps in 0:" in done.stdout and "samples/s" in done.stdout
    assert not (runs / "dry").exists()
