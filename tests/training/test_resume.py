"""A run that is resumed equals the run that was not interrupted, also with other ranks or another ZeRO stage."""

import itertools
import json
import re
import subprocess
import sys

import pytest

from checkpoints.runs import LATEST, find_checkpoint, read_position
from checkpoints.runs.resharding import read_states
from tests.tiny import tiny_model
from tests.tiny_bases import write_qwen, write_sam
from tests.tiny_tiled import write_tiled
from tests.training.test_train_ds import ROOT, TRAINING, launch_environment, write_reason_seg
from tests.training.toy_run import digest
from tests.training.toys import result_of, start_toy, toy_run

CASES = [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]


@pytest.mark.parametrize(
    ("processes", "zero_stage", "muon"), [*((*case, False) for case in CASES), (1, 0, True), (2, 0, True)]
)
def test_a_run_that_is_killed_and_goes_on_equals_one_that_is_not(tmp_path, processes, zero_stage, muon):
    options = {"processes": processes, "zero_stage": zero_stage, "muon": muon}
    whole = toy_run(tmp_path / "whole", **options)
    # The kill comes in the middle of step 4: step 2 is saved, step 3 is being written.
    codes, _ = start_toy(tmp_path / "cut", trouble=[processes - 1, 4, "die"], **options).finish()
    assert codes[-1] == -9 and 0 not in codes
    rest = toy_run(tmp_path / "cut", resume=True, **options)
    for seen, all_seen in zip(rest.pop("seen"), whole.pop("seen"), strict=True):
        assert seen == all_seen[-8:]
    assert rest == whole


def test_a_run_with_muon_does_not_go_on_with_other_processes(tmp_path):
    options = {"zero_stage": 0, "muon": True}
    toy_run(tmp_path, epochs=1, **options)
    codes, outputs = start_toy(tmp_path, processes=2, resume=True, **options).finish()
    assert 0 not in codes
    assert "--optimizer muon: a checkpoint is resumed with the number of processes that wrote it" in "".join(outputs)


def test_saves_inside_an_epoch_are_gone_on_from(tmp_path):
    options = {"epochs": 1, "steps_per_epoch": 6, "save_interval": 2}
    whole = toy_run(tmp_path / "whole", **options)
    codes, (output,) = start_toy(tmp_path / "cut", trouble=[0, 5, "die"], **options).finish()
    assert codes == [-9] and re.findall(r"SAVED (\d+)", output) == ["2"]
    toy = start_toy(tmp_path / "cut", resume=True, **options)
    codes, (output,) = toy.finish()
    assert codes == [0] and re.findall(r"SAVED (\d+)", output) == ["4", "6"]
    rest = result_of(output)
    assert rest.pop("seen")[0] == whole.pop("seen")[0][8:]
    assert rest == whole


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_run_goes_on_with_the_optimizer_settings_of_its_command_line(tmp_path, zero_stage):
    toy_run(tmp_path, zero_stage=zero_stage, epochs=1)
    rest = toy_run(tmp_path, zero_stage=zero_stage, epochs=2, resume=True, lr=0.5, beta1=0.5)
    assert rest["betas"] == [0.5, 0.95]
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[2])
    assert (first["step"], first["train/lr"]) == (3, 0.25)  # half way through the warm-up


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "zero_stage", "backbone"),
    [
        *((*case, "llava") for case in [(1, 0), (1, 2), (2, 1), (2, 2), (2, 3)]),
        (1, 2, "qwen3_vl"),
        (2, 3, "qwen2_5_vl"),
        (2, 2, "internvl3"),
        (2, 3, "llava_onevision"),
    ],
)
def test_train_ds_killed_in_the_middle_of_a_step_ends_where_it_would_have(tmp_path, processes, zero_stage, backbone):
    from checkpoints import save_model

    write_reason_seg(tmp_path / "dataset")
    flags = ["--version", tmp_path / "base", "--dataset_dir", tmp_path / "dataset", "--log_base_dir", tmp_path]
    if backbone == "llava":
        save_model(*tiny_model(), tmp_path / "base")
    else:
        if backbone.startswith("qwen"):
            write_qwen(tmp_path / "base", backbone, tie_word_embeddings=backbone == "qwen3_vl")
        else:
            write_tiled(tmp_path / "base", backbone)
        flags += ["--vision_pretrained", write_sam(tmp_path / "sam")]
    flags += [
        *TRAINING,
        "--zero_stage",
        zero_stage,
        "--lora_dropout",
        "0.1",
        "--steps_per_epoch",
        "3",
        "--save_interval",
        "3",
    ]
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]

    def start(name: str) -> subprocess.Popen:
        command = [*launcher, "train_ds.py", *map(str, flags), "--exp_name", name]
        return subprocess.Popen(command, cwd=ROOT, env=launch_environment(), stdout=subprocess.PIPE, text=True)

    def finish(process: subprocess.Popen) -> None:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out

    finish(start("whole"))
    cut = start("cut")
    assert any("step 5/6" in line for line in cut.stdout)  # saved at step 3; step 6 has begun
    cut.kill() if processes == 1 else cut.terminate()
    cut.communicate(timeout=60)
    stopped = read_position(find_checkpoint(tmp_path / "cut" / LATEST)).step
    assert stopped == 3 if processes == 1 else stopped in (5, 6)
    finish(start("cut"))
    whole, rest = (find_checkpoint(tmp_path / name / LATEST) for name in ("whole", "cut"))
    assert whole.name == rest.name == "global_step6"
    for file in whole.glob("*.pt"):
        states = [read_states(path / file.name) for path in (whole, rest)]
        for state in states:
            state.pop("ds_config", None)
        assert digest(states[0]) == digest(states[1]), file.name
    scores = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("whole", "cut")]
    assert scores[0] == scores[1] and [entry["step"] for entry in scores[0]["evaluations"]] == [3, 6]


MICRO_BATCHES = 4  # of a step, over all processes
EXACT = {"noise": 0.0}  # what is drawn depends on the process that draws it


def options(processes: int) -> dict:
    return {"processes": processes, "accumulation": MICRO_BATCHES // processes}


def losses(run_dir) -> list[float]:
    steps = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [step["train/loss"] for step in steps if "train/loss" in step]


def go_on(tmp_path, *, before: tuple[int, int], after: tuple[int, int], **more) -> tuple[dict, dict]:
    """Results of four steps with (processes, ZeRO stage) as `before`, and of two so and two as `after`."""
    more = EXACT | more
    whole = toy_run(tmp_path / "whole", zero_stage=before[1], **options(before[0]), **more)
    toy_run(tmp_path / "cut", zero_stage=before[1], epochs=1, **options(before[0]), **more)
    rest = toy_run(tmp_path / "cut", zero_stage=after[1], resume=True, **options(after[0]), **more)
    return whole, rest


PAIRS = [((1, 2), (2, 2)), ((2, 2), (4, 2)), ((2, 3), (1, 0)), ((1, 0), (2, 3))]
STATES = list(itertools.product((1, 2, 4), (0, 1, 2, 3)))  # each of them is left once and reached once
OTHERS = [pair for pair in zip(STATES, STATES[5:] + STATES[:5], strict=True) if pair not in PAIRS]


@pytest.mark.parametrize(
    ("before", "after"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)]
)
def test_a_run_goes_on_with_other_shares(tmp_path, before, after):
    whole, rest = go_on(tmp_path, before=before, after=after)
    assert rest["step"] == whole["step"] == 4
    for name, values in whole["trained"].items():
        assert rest["trained"][name] == pytest.approx(values, rel=1e-5, abs=1e-7)
    assert rest["gate"] == pytest.approx(whole["gate"], rel=1e-4, abs=1e-7)
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert rest["schedule"] == whole["schedule"] and rest["learning_rates"] == whole["learning_rates"]
    # Every sample of the last two steps is seen once, by whichever process.
    assert sorted(sum(rest["seen"], [])) == sorted(sum(whole["seen"], []))[16:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [((1, 0), (2, 2)), ((2, 3), (1, 1)), ((2, 2), (1, 0)), ((2, 1), (1, 2)), ((1, 2), (2, 3))]
)
def test_in_bf16_the_float32_weights_come_along(tmp_path, before, after):
    whole, rest = go_on(tmp_path, before=before, after=after, precision="bf16")
    for name, values in whole["trained"].items():
        assert rest["trained"][name] == pytest.approx(values, rel=1e-2, abs=1e-3)


def test_a_run_of_one_process_changes_its_stage_bit_by_bit(tmp_path):
    whole, rest = go_on(tmp_path, before=(1, 0), after=(1, 2), noise=0.1)
    assert rest["trained"] == whole["trained"] and rest["reward_mean"] == whole["reward_mean"]


def test_what_was_resharded_is_saved_and_gone_on_from_as_ever(tmp_path):
    toy_run(tmp_path, epochs=1, **options(1), **EXACT)
    toy_run(tmp_path, epochs=2, resume=True, **options(2), **EXACT)
    last = toy_run(tmp_path, epochs=3, resume=True, **options(1), **EXACT)
    assert last["step"] == 6 and last["seen"] == [list(range(200, 216))]


@pytest.mark.slow
def test_fp16_keeps_the_number_of_its_processes(tmp_path):
    toy_run(tmp_path, precision="fp16", epochs=1)
    codes, outputs = start_toy(tmp_path, precision="fp16", processes=2, resume=True).finish()
    assert codes == [2, 2], outputs
    assert "--precision fp16: a checkpoint is resumed with the number of processes" in outputs[0]
