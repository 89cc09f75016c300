"""The dry run: its estimate, its search for the largest batch, what it says, and that it leaves nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from checkpoints.loading import PRECISIONS
from dataloaders.batching.collate import Collator
from dataloaders.sample import Turn
from tests.tiny import tiny_model, tiny_samples
from tests.training.test_processes import on_processes
from training import memory
from training.engine import build_optimizer, engine_config, start_engine
from training.loop import Schedule
from training.memory import batch_bytes, estimate_memory, peak_memory, shared_memory_warning, tensor_memory
from training.preflight import describe_time, find_largest_batch, time_steps

BILLION = 10**9


def estimate(**options):
    return estimate_memory(
        **{"total": 8 * BILLION, "trainable": BILLION, "precision": "bf16", "zero_stage": 2, **options}
    )


def test_stages_share_what_they_say():
    def parts(stage):
        one = estimate(zero_stage=stage, world_size=4)
        return [number / BILLION for number in (one.weights, one.gradients, one.float32_copy, one.adam_moments)]

    assert parts(0) == [16, 2, 4, 8]
    assert parts(1) == [16, 2, 1, 2]
    assert parts(2) == [16, 0.5, 1, 2]
    assert parts(3) == [4, 0.5, 1, 2]


def test_a_classic_example_of_the_zero_paper():
    # 7.5 B parameters, all trained in 16 bit with Adam: 120 GB alone; with 64 devices 31.4, 16.6 and 1.9 GB.
    def gigabytes(stage, world_size):
        size = {"total": int(7.5 * BILLION), "trainable": int(7.5 * BILLION)}
        one = estimate_memory(**size, precision="fp16", zero_stage=stage, world_size=world_size)
        return one.backward / BILLION

    assert gigabytes(0, 1) == pytest.approx(120)
    assert [round(gigabytes(stage, 64), 1) for stage in (1, 2, 3)] == [31.4, 16.6, 1.9]


def test_buffers_are_doubled_where_communication_is_hidden():
    assert estimate(world_size=2, bucket=100).buckets == 200
    assert estimate(world_size=2, bucket=100, overlap=True).buckets == 400
    assert estimate(world_size=2, bucket=100, zero_stage=0).buckets == 0
    assert estimate(world_size=2, bucket=100, zero_stage=3, overlap=True).buckets == 200


def test_the_optimizer_s_step_can_need_more_than_the_backward_pass():
    one = estimate(world_size=1, bucket=100)
    assert one.step - one.backward == 4 * BILLION - 200  # gradients in float32, buckets gone
    assert one.peak() == one.step and one.peak(8 * BILLION) == one.backward + 8 * BILLION


def _compare_with_deepspeed(world, cases) -> None:
    """Tensors of real engines: between steps, and while the optimizer works."""
    cpu = torch.device("cpu")
    for zero_stage, precision in cases:
        before, at_step = tensor_memory(cpu), []
        model = nn.Sequential(*(nn.Linear(500, 500, bias=False) for _ in range(5))).to(PRECISIONS[precision])
        model[0].requires_grad_(False)
        config = engine_config(
            batch_size=1, accumulation=2, world_size=world.size, precision=precision, zero_stage=zero_stage, lr=1e-3,
            warmup_min_lr=0.0, warmup_num_steps=1, total_steps=9, overlap=False, bucket=10**6,
        )  # fmt: skip
        optimizer = build_optimizer(model, lr=1e-3, betas=(0.9, 0.95))
        optimizer.register_step_pre_hook(lambda *_, seen=at_step: seen.append(tensor_memory(cpu)))
        engine = start_engine(model, optimizer, config, world)
        for _ in range(4):
            engine.backward(engine(torch.ones(1, 500, dtype=PRECISIONS[precision])).float().square().mean())
            engine.step()
        expected = estimate_memory(
            total=5 * 250_000, trainable=10**6, precision=precision, zero_stage=zero_stage, world_size=world.size,
            accumulation=2, bucket=10**6,
        )  # fmt: skip
        between = tensor_memory(cpu) - before
        assert between == pytest.approx(expected.between_steps, rel=0.02), (zero_stage, precision)
        measured = (at_step[-1] - before) / expected.step  # without gradients that are copied already, or of others
        assert 1 - expected.gradients / expected.step - 0.02 < measured < 1.02, (zero_stage, precision)
        engine.destroy()
        del engine, optimizer, model


def test_the_estimate_is_what_deepspeed_holds():
    on_processes(_compare_with_deepspeed, [(0, "bf16"), (2, "bf16"), (3, "bf16")], number=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_the_estimate_is_what_deepspeed_holds_in_every_case(number):
    cases = [(stage, precision) for stage in (0, 1, 2, 3) for precision in ("fp32", "bf16")]
    on_processes(_compare_with_deepspeed, cases, number=number)


def test_shared_memory_that_is_too_small_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    (line,) = shared_memory_warning(20 * 2**20, processes=4)
    assert "64 MiB free" in line and "80 MiB" in line and "--shm-size" in line and "--workers" in line
    assert shared_memory_warning(16 * 2**20, processes=4) == []
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path / "not there")
    assert shared_memory_warning(20 * 2**20, processes=4) == []


def test_what_a_worker_hands_over_is_counted():
    _, processor = tiny_model()
    batch = Collator(processor)(tiny_samples())
    masks = sum(mask.nbytes for mask in batch.masks) + batch.ignore[1].nbytes
    images = sum(each.groups[0].pixels.nbytes for each in (batch.decoder_images, batch.backbone_images))
    assert masks + images < batch_bytes(batch) < masks + images + 50 * batch.input_ids.numel()


def test_the_memory_of_tensors_is_counted_once_per_storage():
    device = torch.device("cpu")
    before = tensor_memory(device)
    held = torch.ones(2**20)
    seen_twice = held[: 2**19], held.view(2, -1)
    assert tensor_memory(device) - before == held.nbytes
    del seen_twice, held
    assert tensor_memory(device) == before
    assert peak_memory(device) > before


class Samples:
    """Stands in for a mixture: the item's number decides how long its answer is."""

    lengths = [1, 7, 2, 9, 3, 8]

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        _, item = index
        answer = "It is the red house. " * self.lengths[item]
        return replace(
            tiny_samples()[0],
            image_path=f"{item}.jpg",
            conversations=[(Turn("What is it?", answer),)],
            masks=np.zeros((0, 40, 60), np.uint8),
        )


def test_the_largest_samples_are_put_into_one_batch():
    _, processor = tiny_model()
    largest = find_largest_batch(Samples(), Collator(processor), 2, drawn=6)
    assert [source.split()[-1] for source in largest.batch.sources] == ["3.jpg", "5.jpg"]
    assert (largest.rows, largest.targets) == (2, 0)


def test_targets_count_as_well_as_tokens():
    _, processor = tiny_model()

    class Mixed(Samples):
        def __getitem__(self, index):
            return tiny_samples()[0] if index[1] == 0 else super().__getitem__(index)

    largest = find_largest_batch(Mixed(), Collator(processor), 1, drawn=4)
    assert largest.targets == 3


def test_the_end_of_the_run_is_said():
    schedule = Schedule(epochs=2, steps_per_epoch=1800, accumulation=1, batch_size=2, world_size=4, eval_interval=900)
    text = "\n".join(describe_time(schedule, seconds_per_step=2.0, validation_seconds=900.0, now=0.0))
    assert "4.0 samples/s, 2.00 s/step" in text
    assert "3,600 steps in 2:00:00" in text
    assert "4 times 15:00" in text
    assert "3:00:00; started now" in text
    assert "validation" not in "\n".join(describe_time(schedule, 2.0, None))


@pytest.mark.parametrize("steps", [1, 2, 100])
def test_a_run_shorter_than_what_would_be_timed_is_timed_as_far_as_it_goes(steps):
    schedule = Schedule(epochs=1, steps_per_epoch=steps, accumulation=1, batch_size=1, world_size=1)
    done = []

    def run(batches, short, pause):
        for step in range(1, short.total_steps + 1):
            done.append(next(batches))
            if short.pauses_after(step):
                pause(short.position_at(step))

    assert 0 <= time_steps(iter(range(steps)), schedule, run) < 1
    assert len(done) <= steps
