"""What a run says of flags that changed since the checkpoint that it resumes was written."""

import copy
from pathlib import Path

import pytest
import torch

from checkpoints.runs import BEST, Position, find_checkpoint
from groundscore.errors import UserError
from model.backbones import backbone_named
from model.settings import ImageSettings, model_settings, settings_of_system
from tests.tiny import tiny_model
from tests.training.test_checkpoints import ALONE, fake_checkpoint
from training.arguments import parse_arguments
from training.config import config_class
from training.loop import Schedule
from training.resuming import describe_changes, describe_global_batch, describe_run, frozen_digest, keep_best_apart
from utils.settings import FIXED, FREE, RANKING, REPORTED, settings_of

CHECKPOINT = Path("runs/one/ckpt_model/global_step4")
FOREIGN = set(model_settings()) - set(settings_of_system("UGround"))  # of other systems, and of other backbones
FOREIGN |= set(settings_of(ImageSettings)) - set(backbone_named("llava").settings)
FLAGS = [setting for name, setting in settings_of(config_class()).items() if name not in FOREIGN]


@pytest.fixture(scope="module")
def model():
    model, _ = tiny_model()
    model.requires_grad_(False)
    model.policy.requires_grad_(True)
    return model


@pytest.fixture
def run(model):
    """What a run records of itself."""
    return describe_run(parse_arguments(["--vision_tower", "clip", "--layer", "last"]), model, "fp32", ALONE)


def test_settings_of_other_systems_change_nothing(run):
    before = copy.deepcopy(run)
    before["model"] |= dict.fromkeys(FOREIGN, "as in runs of before")

    assert describe_changes(CHECKPOINT, before, run) == []


def another(value):
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}x"


@pytest.mark.parametrize("flag", FLAGS, ids=lambda item: item.name)
def test_every_flag_does_what_it_declares(run, flag):
    before = copy.deepcopy(run)
    for part in ("flags", "base", "model"):
        if flag.name in before[part]:
            before[part][flag.name] = another(before[part][flag.name])
    if flag.name == "precision":
        before["precision"] = "bf16"
    if flag.name == "model_key":
        before["model"]["system"] = "LISA"
    kind = flag.on_resume
    assert kind in (FREE, REPORTED, RANKING, FIXED)
    if kind == FIXED:
        with pytest.raises(UserError, match=f"trained with (no )?--{flag.name}.*--exp_name.*--no_resume"):
            describe_changes(CHECKPOINT, before, run)
        return
    lines = describe_changes(CHECKPOINT, before, run)
    assert (kind != FREE) == any(line.split()[:1] == [flag.name] and "→" in line for line in lines)


def test_nothing_is_said_where_nothing_changed(run, tmp_path, monkeypatch):
    assert describe_changes(CHECKPOINT, copy.deepcopy(run), run) == []
    before = copy.deepcopy(run)
    before["flags"] |= {"dataset_dir": str(Path("dataset").resolve()), "val_dataset": "ReasonSeg|val||ReasonSeg|test"}
    assert describe_changes(CHECKPOINT, before, run) == []


def test_a_flag_that_is_left_out_is_compared_by_what_it_comes_to(run):
    """`--mode 1` in the first launch only: the second has what the base model says, which is 3."""
    before = copy.deepcopy(run)
    before["flags"]["mode"] = before["model"]["mode"] = 1
    assert any(line.split() == ["mode", "1", "→", "3"] for line in describe_changes(CHECKPOINT, before, run))


def test_a_checkpoint_of_an_earlier_version_says_less_and_is_gone_on_from(run):
    before = copy.deepcopy(run)
    del before["frozen"], before["flags"]["seed"]
    assert describe_changes(CHECKPOINT, before, run) == []


def test_trained_weights_are_not_put_on_top_of_another_base(run, model):
    other = copy.deepcopy(model)
    name = next(name for name, parameter in other.named_parameters() if not parameter.requires_grad)
    with torch.no_grad():
        other.get_parameter(name).flatten()[0] += 1
    assert frozen_digest(other) != frozen_digest(model) == run["frozen"]
    with pytest.raises(UserError, match="other frozen weights.*start with --version .*clip.*their files.*--exp_name"):
        describe_changes(CHECKPOINT, run | {"frozen": frozen_digest(other)}, run)


def test_the_base_may_lie_elsewhere(run):
    before = copy.deepcopy(run)
    before["base"]["version"] = "/scratch/base"
    assert any("/scratch/base →" in line for line in describe_changes(CHECKPOINT, before, run))


def test_another_number_of_processes_and_another_global_batch_are_said(run):
    assert describe_changes(CHECKPOINT, run | {"world_size": 4}, run)[-1].split() == ["processes", "4", "→", "1"]
    schedule = Schedule(epochs=2, steps_per_epoch=4, accumulation=2, batch_size=3, world_size=4)
    assert describe_global_batch(Position(step=2, samples=48, world_size=1), schedule) == ""
    assert describe_global_batch(Position(step=2, samples=72, world_size=6), schedule) == (
        "The global batch size changed from 36 to 24, so the sample order differs from before; "
        "--grad_accumulation_steps 3 keeps it."
    )
    assert describe_global_batch(Position(step=2, samples=10, world_size=1), schedule).endswith("differs from before.")


@pytest.mark.parametrize(
    ("flags", "apart"),
    [
        ({"val_dataset": "ReasonSeg|test||ReasonSeg|val"}, True),
        ({"val_dataset": "ReasonSeg|val||ReasonSeg|test"}, False),
        ({"answer": "generated"}, True),
        ({"seed": 1}, False),
    ],
)
def test_a_best_that_was_selected_otherwise_is_kept_apart(run, tmp_path, flags, apart):
    best = fake_checkpoint(tmp_path / BEST, 4, settings=run | {"flags": run["flags"] | flags})
    moved = keep_best_apart(tmp_path, run, ALONE)
    assert (moved is not None) == apart
    if apart:
        directory, sentence = moved
        assert directory == tmp_path / f"{BEST}.1" and find_checkpoint(directory).name == best.name
        assert f"{next(iter(flags))} {next(iter(flags.values()))} → " in sentence and str(directory) in sentence
    assert (find_checkpoint(tmp_path / BEST) is None) == apart
    assert keep_best_apart(tmp_path, run, ALONE) is None
