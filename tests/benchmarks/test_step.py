"""The benchmarks: their batch is the yardstick's, counted work equals real work, and the limits hold."""

from dataclasses import replace

import pytest
import torch

from benchmarks.bench_model import SEG_ID, SIZES, BenchShape, bench_batch, bench_model
from benchmarks.counting import StepCount, count_step
from benchmarks.features import two_epochs
from benchmarks.growth import AXES, grow
from benchmarks.measuring import Cost, count_flops, in_a_new_process
from benchmarks.scale import Machine, predict
from benchmarks.step import REFERENCE, run, table_rows, work

TINY = SIZES["tiny"]


def test_the_batch_is_that_of_the_yardstick():
    batch = bench_batch(BenchShape())
    assert batch.input_ids.shape == (2, 37 + 576 + 3 * 52)
    plain = bench_batch(replace(BenchShape(), packed=False))
    assert plain.input_ids.shape == (6, 576 + 89)
    for one in (batch, plain):
        assert len(one.label_ids) == 6 * 12
        assert (one.input_ids.flatten()[one.seg_positions + 1] == SEG_ID).all()
        assert torch.equal(one.input_ids.flatten()[one.label_positions + 1], one.label_ids)
        assert [mask.shape for mask in one.masks] == [(3, 480, 640)] * 2


def test_packed_and_plain_bench_batches_give_the_same_losses():
    choice = torch.arange(6) % 3
    losses = []
    for packed in (True, False):
        shape = replace(TINY, packed=packed)
        losses.append(bench_model(shape)(bench_batch(shape), layer_choice=choice).losses)
    for name, value in losses[0].items():
        assert value.item() == pytest.approx(losses[1][name].item(), rel=1e-4, abs=1e-6), name


def test_flops_counted_from_shapes_are_those_of_a_real_step():
    assert count_step(TINY).flops == pytest.approx(count_flops(work("train", TINY, "UGround")), rel=1e-3)


def test_the_training_step_of_the_yardstick_stays_within_its_flops():
    assert count_step(BenchShape()).flops <= REFERENCE["train"].gflops_share * REFERENCE["train"].gflops * 1e9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "generate"])
def test_evaluation_and_generation_stay_within_their_flops(name):
    limit = REFERENCE[name].gflops_share * REFERENCE[name].gflops * 1e9
    assert count_flops(work(name, BenchShape(), "UGround")) <= limit


def test_a_step_in_a_process_of_its_own_is_measured():
    cost = in_a_new_process(run, "train", TINY, "UGround", 1, 1, False)
    assert cost.flops > 1e8 and cost.seconds > 0 and cost.cpu_seconds > 0 and 0.2 < cost.peak_gb < 4


def test_the_table_says_what_holds_and_what_is_missed():
    rows = table_rows("train", Cost(400e9, 10.0, 20.0, 3.0), REFERENCE["train"])
    assert [row.split("|")[7] for row in rows] == ["holds", "**missed**", "holds", ""]


def test_cost_grows_no_faster_than_conversations_and_much_slower_than_plain_rows():
    axis = replace(AXES["conversations"], values=(3, 12))
    lines = grow(axis, replace(BenchShape(), layers=2, clip_layers=2, sam_image_size=256))
    (_, few, few_kept), (_, many, many_kept) = lines["packed rows"]
    assert many < 4 * few and many_kept < 4 * few_kept
    assert many < 0.4 * lines["plain rows"][1][1]


LORA_7B = StepCount(flops=71e12, forward={}, kept_bytes=800_000_000, total=7_726_000_000, trainable=288_000_000)


def predicted(gpus: int, zero_stage: int):
    return predict(LORA_7B, Machine(), gpus=gpus, zero_stage=zero_stage, images=2, layers=32)


def test_zero_3_is_predicted_to_need_less_memory_and_more_time():
    two, three = predicted(8, 2), predicted(8, 3)
    assert three.memory < two.memory and three.seconds > two.seconds


def test_more_gpus_are_predicted_to_train_more_samples_with_less_memory_each():
    one, eight = predicted(1, 2), predicted(8, 2)
    assert eight.memory < one.memory < 40
    assert one.samples_per_second < eight.samples_per_second <= 8 * one.samples_per_second


def test_a_second_epoch_over_cached_features_encodes_nothing():
    first, second = two_epochs("tiny", pictures=4, conversations=1)
    assert (first.encoded, second.encoded) == (4, 0)
    assert first.megabytes == second.megabytes > 0
