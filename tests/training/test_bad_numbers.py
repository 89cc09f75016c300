"""Losses and gradients that are not finite, in the toy: sample 5 of the first epoch has them."""

import math

import pytest

from checkpoints.runs import LATEST, find_checkpoint, read_position
from dataloaders.batching.collate import Collator
from tests.tiny import tiny_model, tiny_samples
from tests.training.toys import result_of, start_toy, toy_run
from training.bad_numbers import bad_sources

# Sample 5 is in micro-batch 3 of 2 samples: the first of step 2 at one process, the first of process 0 at two.
CASES = [(1, 0, 2, 1), (1, 2, 2, 1), (2, 2, 1, 2), (2, 3, 1, 2)]


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize(("processes", "zero_stage", "step", "micro_batch"), CASES)
def test_training_ends_and_names_term_and_samples(tmp_path, processes, zero_stage, step, micro_batch, how):
    options = {"processes": processes, "zero_stage": zero_stage, "bad": [5, how]}
    codes, outputs = start_toy(tmp_path, **options).finish()
    assert set(codes) == {2}, outputs
    assert f"step {step}: not finite\n  process 0, micro-batch {micro_batch} of 2: " in outputs[0]
    term = (
        "mask_dice_loss"
        if how == "loss"
        else "the gradient of mask_dice_loss (for policy.gate, trained.weight, trained.bias)"
    )
    assert f"{term}, in toys/shelf 4.jpg, toys/shelf 5.jpg\n" in outputs[0]
    saved = find_checkpoint(tmp_path / LATEST)
    assert (read_position(saved).step if saved else 0) == step - 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_step_that_is_left_out_changes_nothing_but_the_schedule(tmp_path, zero_stage, how, precision):
    options = {"zero_stage": zero_stage, "bad": [5, how], "skip": 1, "epochs": 1, "precision": precision}
    before = toy_run(tmp_path / "before", **options | {"steps_per_epoch": 1})
    after = toy_run(tmp_path / "after", **options)
    assert (after["step"], after["skipped"], before["skipped"]) == (2, 1, 0)
    assert after["trained"] == before["trained"]
    assert after["reward_mean"] == before["reward_mean"]
    longer = toy_run(tmp_path / "after", **options | {"epochs": 2}, resume=True)
    assert (longer["step"], longer["skipped"]) == (4, 1)
    assert longer["schedule"] == toy_run(tmp_path / "fine", epochs=2)["schedule"]
    assert longer["trained"] != before["trained"]
    assert all(math.isfinite(value) for value in longer["trained"]["weight"])


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_gradients_that_overflow_in_fp16_cost_a_step_and_no_budget(tmp_path, zero_stage):
    """The loss is scaled less from then on, and the schedule goes on."""
    codes, (output,) = start_toy(tmp_path, zero_stage=zero_stage, bad=[5, "gradient"], precision="fp16").finish()
    result = result_of(output)
    assert codes == [0] and (result["step"], result["skipped"]) == (4, 0)
    assert "step 2 is left out: its gradients overflow fp16; the loss is scaled by" in output
    assert all(math.isfinite(value) for value in result["trained"]["weight"])
    assert result["schedule"] == toy_run(tmp_path / "fine", precision="fp16")["schedule"]


def test_the_budget_is_that_of_the_run_not_of_the_launch(tmp_path):
    toy_run(tmp_path, bad=[5, "loss"], skip=1, epochs=1)
    codes, (output,) = start_toy(tmp_path, bad=[105, "loss"], skip=1, resume=True).finish()
    assert codes == [2] and "toys/shelf 105.jpg" in output


@pytest.mark.parametrize(
    ("part", "place", "named"),
    [
        ("dice", -1, ["reason_seg/ReasonSeg second.jpg"]),
        ("bce", 0, ["refer_seg/refcoco first.jpg"]),
        ("ce", -1, ["reason_seg/ReasonSeg second.jpg"]),
        (None, 0, ["refer_seg/refcoco first.jpg", "reason_seg/ReasonSeg second.jpg"]),
    ],
)
def test_the_image_is_named_whose_target_or_token_is_bad(part, place, named):
    model, processor = tiny_model()
    batch = Collator(processor)(tiny_samples())
    parts = model(batch).loss_parts
    if part is not None:
        getattr(parts, part)[place] = math.nan
    assert bad_sources(batch, parts) == named
