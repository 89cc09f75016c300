"""The benchmarks: their batch is the yardstick's, counted work equals real work, and the limits hold."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import counting, generation, scale
from benchmarks.bench_model import SEG_ID, SIZES, BenchShape, bench_batch, bench_model
from benchmarks.counting import StepCount, count_step
from benchmarks.features import two_epochs
from benchmarks.growth import AXES, grow
from benchmarks.measuring import Cost, count_flops, in_a_new_process
from benchmarks.scale import Machine, predict
from benchmarks.step import REFERENCE, run, table_rows, work
from groundscore.errors import UserError

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


def test_an_answer_must_hold_its_targets():
    assert len(bench_batch(replace(TINY, segs=11)).seg_positions) == 11 * TINY.images * TINY.conversations
    with pytest.raises(UserError, match=r"12 \[SEG\] do not fit into an answer of 12 labelled tokens"):
        bench_batch(replace(TINY, segs=12))


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


def test_the_training_step_of_the_yardstick_stays_within_its_flops_and_its_memory():
    count = count_step(BenchShape())
    assert count.flops <= REFERENCE["train"].share * REFERENCE["train"].gflops * 1e9
    assert count.kept_bytes <= 0.9e9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "generate"])
def test_evaluation_and_generation_stay_within_their_flops(name):
    limit = REFERENCE[name].share * REFERENCE[name].gflops * 1e9
    assert count_flops(work(name, BenchShape(), "UGround")) <= limit


def test_a_step_in_a_process_of_its_own_is_measured():
    cost = in_a_new_process(run, "train", TINY, "UGround", 1, 1)
    assert cost.flops > 1e8 and cost.seconds > 0 and cost.cpu_seconds > 0 and 0.2 < cost.peak_gb < 4


def test_the_table_says_what_holds_and_what_is_missed():
    rows = [table_rows("train", Cost(flops, 10.0, 20.0, 3.0), REFERENCE["train"]) for flops in (400e9, 500e9)]
    assert [row.split("|")[7] for row in rows[0]] == ["holds", "", "", ""]
    assert [row.split("|")[7] for row in rows[1]] == ["**missed**", "", "", ""]
    assert table_rows("train", Cost(400e9, 10.0, 20.0, 3.0), None)[0] == "|train|GFLOP|400.00|||||"


def test_cost_grows_no_faster_than_conversations_and_much_slower_than_plain_rows():
    axis = replace(AXES["conversations"], values=(3, 12))
    lines = grow(axis, replace(BenchShape(), layers=2, clip_layers=2, sam_image_size=256))
    (_, few, few_kept), (_, many, many_kept) = lines["packed rows"]
    assert many < 4 * few and many_kept < 4 * few_kept
    assert many < 0.4 * lines["plain rows"][1][1]


def test_pictures_of_any_size_cost_a_logit_and_a_target_per_pixel_of_a_mask():
    small, large = (count_step(replace(TINY, height=side, width_pixels=side)) for side in (256, 1024))
    more_pixels = TINY.images * TINY.conversations * TINY.segs * (1024**2 - 256**2)  # of all masks together
    assert large.kept_bytes - small.kept_bytes <= 10 * more_pixels
    assert large.flops - small.flops < 900 * more_pixels


def test_choosing_a_layer_keeps_the_same_memory_however_many_layers_there_are():
    """UGround's policy beside GSVA, which always takes the last layer; the policy's own input, a state of every layer
    for every target, is left out."""
    targets = TINY.images * TINY.conversations
    more = []
    for layers in (2, 8):
        shape = replace(TINY, layers=layers)
        policy_input = targets * (layers + 1) * shape.width * 4
        more.append(count_step(shape).kept_bytes - count_step(shape, "GSVA").kept_bytes - policy_input)
    assert more[1] == pytest.approx(more[0], abs=4096)


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
    first, second = two_epochs("tiny", total=4, conversations=1)
    assert (first.encoded, second.encoded) == (4, 0)
    assert first.megabytes == second.megabytes > 0


def test_what_the_scale_assumes_can_be_given(capsys, monkeypatch):
    monkeypatch.setattr(counting, "count_step", lambda *_, **__: LORA_7B)
    scale.main(["--sizes", "7b", "--gpus", "1", "--tflops", "100", "--utilisation", "1", "--runtime_gb", "50"])
    stage_2, stage_3 = capsys.readouterr().out.splitlines()[-2:]
    _, tflop, _, _, memory, _, _, seconds, _ = stage_2.strip("|").split("|")
    assert float(seconds) == pytest.approx(float(tflop) / 100, abs=0.01) and float(memory) > 60
    assert stage_3.split("|")[6:] == stage_2.split("|")[6:]  # one GPU has nobody to share with but its buffers


def test_the_time_of_generation_is_told_by_part_and_its_kernels_are_counted(capsys):
    generation.main(["--size", "tiny", "--answers", "2", "--new_tokens", "3", "--repeats", "1", "--threads", "1"])
    assert all(float(number) >= 0 for number in capsys.readouterr().out.splitlines()[-1].strip("|").split("|"))
    few, many = (generation.kernels_of_a_token(layers) for layers in (1, 3))
    assert 20 < (many - few) / 2 < 60  # of a layer


def test_the_parts_of_a_step_add_up(capsys):
    counting.main(["--size", "tiny"])
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    *parts, forward, _ = [float(row[1]) for row in rows]
    assert sum(parts) == pytest.approx(forward, abs=0.05 * len(parts)) and forward > 0


@pytest.mark.slow
def test_the_page_says_what_the_mask_decoders_cost(capsys):
    counting.main(["--decoders"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|S")]
    page = (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(counting.DECODER_SIZES) and set(rows) <= set(page)


@pytest.mark.parametrize(
    ("size", "lists"),
    [("qwen2.5-vl-7b", {"fullatt_block_indexes": [0]}), ("qwen3-vl-8b", {"deepstack_visual_indexes": [0]})],
)
def test_the_grids_of_qwen_vl_are_counted_without_their_values(size, lists):
    shape = SIZES[size]
    vision = {**shape.vision, "depth": 2, **lists}
    count = count_step(replace(shape, images=1, layers=2, vision=vision, sam_layers=1, sam_global=(0,)), lora_r=2)
    assert all(flops >= -0.01 * sum(count.forward.values()) for flops in count.forward.values())
    assert count.forward["Qwen-VL's image encoder"] > count.forward["projector"] > 0
