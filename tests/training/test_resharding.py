"""A run goes on with another number of processes, or at another ZeRO stage, as if it had been so from the start."""

import itertools
import json

import pytest

from tests.training.toys import start_toy, toy_run

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
    assert "--precision fp16: a run can only be resumed with the number of processes" in outputs[0]
