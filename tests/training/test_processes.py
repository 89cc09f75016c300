"""Two processes train as one does on the same micro-batches, whatever each of them holds."""

import itertools
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from dataloaders.batching.collate import Collator
from tests.tiny import text_only_sample, tiny_model, tiny_samples
from tests.training.toy_run import pretend_fp16
from tests.training.toys import CONTEXT  # noqa: F401  its processes have imported everything
from utils.distributed import free_port

MODES_AND_BASELINES = [
    {"mode": mode, "estimator": estimator, "baseline_type": baseline, "reward": reward}
    for mode, (estimator, baseline, reward) in itertools.product(
        (1, 2, 3),
        [
            ("sample", "ema", "target"),
            ("sample", "critic", "target"),
            ("sample", "none", "target"),
            ("sample", "ema", "batch"),
            ("leave_one_out", "none", "target"),
            ("expected", "none", "target"),
        ],
    )
]
SYSTEMS = ("LISA", "READ", "PixelLM", "GSVA", "SESAME")


def on_processes(check, *arguments, number: int = 2) -> None:
    """Run `check(world, *arguments)` on some processes; it must end on all within the time of a collective."""
    multiprocessing.start_processes(
        _join_and_run, (number, free_port(), check, arguments), nprocs=number, start_method="forkserver"
    )


def _join_and_run(rank: int, size: int, port: int, check, arguments) -> None:
    from utils.distributed import join_world

    torch.set_num_threads(1)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        world = join_world("cpu", timeout=60)
        check(world, *arguments)
        world.close()
    except Exception:
        traceback.print_exc()
        raise


def engine_for(model, world, *, accumulation=1, precision="fp32", zero_stage=2):
    from training.engine import build_optimizer, engine_config, start_engine

    config = engine_config(
        batch_size=1, accumulation=accumulation, world_size=world.size, precision=precision, zero_stage=zero_stage,
        lr=1e-3, warmup_min_lr=0.0, warmup_num_steps=0, total_steps=10, overlap=False,
    )  # fmt: skip
    return start_engine(model, build_optimizer(model, lr=1e-3, betas=(0.9, 0.95)), config, world)


def only_rejections() -> list:
    """A picture whose one answer is `[REJ]`."""
    sample = tiny_samples()[0]
    return [replace(sample, conversations=[sample.conversations[2]], masks=sample.masks[3:], expressions=("boat",))]


def _train_without_targets(world, settings: list[tuple[str, dict]]) -> None:
    """Batches with targets on one process, on the other, on none."""
    for number, (system, options) in enumerate(settings):
        model, processor = tiny_model(system, **options)
        model.requires_grad_(False)
        for name, parameter in model.named_parameters():
            parts = ("policy", "text_hidden_fcs", "lm_head", "mask_decoder", "embed_tokens")
            parameter.requires_grad_(any(part in name for part in parts))
        engine = engine_for(model, world, zero_stage=number % 3)
        collate = Collator(processor)
        nothing = [[text_only_sample()], only_rejections()][number % 2]
        for holders in ((0,), (1,), ()):
            batch = collate(tiny_samples() if world.rank in holders else nothing)
            loss = engine(batch).loss
            engine.backward(loss)
            engine.step()
            assert torch.isfinite(loss), (system, options, holders)
        sums = world.gather([float(value.double().sum()) for value in model.parameters()])
        assert sums[0] == sums[1], (system, options)


def test_a_process_without_targets_takes_part_in_every_mode_and_baseline():
    on_processes(_train_without_targets, [("UGround", options) for options in MODES_AND_BASELINES])


def test_a_process_without_targets_takes_part_in_every_system():
    on_processes(_train_without_targets, [(system, {}) for system in SYSTEMS])


def _train_decoders(world, names: list[str]) -> None:
    """Two steps under ZeRO 3 and without ZeRO end in the same weights, points and mask prompts among what is read."""
    for name in names:
        for system in ("UGround", "READ"):
            ended = []
            for stage in (0, 3):
                model, processor = tiny_model(system, mask_decoder=name)
                model.decoder.encoder.requires_grad_(False)
                engine = engine_for(model, world, zero_stage=stage)
                batch = Collator(processor)(tiny_samples() if world.rank == 0 else [text_only_sample()])
                for _ in range(2):
                    torch.manual_seed(0)
                    choice = torch.zeros(len(batch.seg_positions) or 1, dtype=torch.int64)
                    loss = engine(batch, layer_choice=choice).loss
                    engine.backward(loss)
                    engine.step()
                ended.append(_whole(engine.module))
            for key, value in ended[0].items():
                torch.testing.assert_close(ended[1][key], value, atol=2e-4, rtol=1e-3, msg=f"{name}, {system}: {key}")


def _train_backbones(world, bases: list[tuple[str, str, str, dict]]) -> None:
    """The same of backbones whose images differ in shape, and so in number of groups between the processes."""
    from checkpoints import load_model
    from model.lora import add_lora

    for name, version, sam, overrides in bases:
        ended = []
        for stage in (0, 3):
            model, processor, _ = load_model(version, system="UGround", vision_pretrained=sam, overrides=overrides)
            model.requires_grad_(False)
            torch.manual_seed(1)
            add_lora(model, r=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"])
            for part in ("embed_tokens", "lm_head", "text_hidden_fcs", "policy", "lora_", "projector", "image_newline"):
                for key, parameter in model.named_parameters():
                    parameter.requires_grad_(parameter.requires_grad or part in key)
            model.backbone.checkpoint_gradients()
            engine = engine_for(model, world, zero_stage=stage)
            batch = Collator(processor)(tiny_samples() if world.rank == 0 else [text_only_sample()])
            assert world.gather(len(batch.backbone_images.groups)) == [2, 1]
            for _ in range(2):
                torch.manual_seed(0)
                choice = torch.zeros(len(batch.seg_positions) or 1, dtype=torch.int64)
                loss = engine(batch, layer_choice=choice).loss
                engine.backward(loss)
                engine.step()
            ended.append(_whole(engine.module))
        for key, value in ended[0].items():
            torch.testing.assert_close(ended[1][key], value, atol=2e-4, rtol=1e-3, msg=f"{name}: {key}")


def _whole(model) -> dict[str, torch.Tensor]:
    """All parameters, gathered where ZeRO 3 has them in pieces."""
    import deepspeed

    whole = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            whole[name] = parameter.detach().clone()
    return whole


@pytest.mark.slow
def test_qwen_vl_trains_under_zero_3_as_without(tmp_path):
    from tests.tiny_bases import write_qwen, write_sam

    write_sam(tmp_path / "sam")
    bases = [("plain", "qwen2_5_vl", False), ("tied", "qwen3_vl", True)]
    for name, kind, tied in bases:
        write_qwen(tmp_path / name, kind, tie_word_embeddings=tied)
    sam = str(tmp_path / "sam")
    on_processes(_train_backbones, [(name, str(tmp_path / name), sam, {}) for name, _, _ in bases])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava_onevision", "internvl3", "llava_next"])
def test_images_in_tiles_train_under_zero_3_as_without(kind, tmp_path):
    from tests.tiny_bases import write_sam
    from tests.tiny_tiled import write_tiled

    write_tiled(tmp_path / "base", kind)
    overrides = {"anyres": True} if kind == "llava_next" else {}
    sam = str(write_sam(tmp_path / "sam"))
    on_processes(_train_backbones, [(kind, str(tmp_path / "base"), sam, overrides)])


@pytest.mark.slow
def test_every_mask_decoder_trains_under_zero_3_as_without():
    on_processes(_train_decoders, ["sam", "sam_hq", "sam2", "sam3_tracker"])


def _leave(world) -> None:
    """Train a step, talk, close; the threads of the process groups must be gone."""
    _train_a_step(world)
    world.gather(world.rank)
    assert gloo_threads()
    world.close()
    assert not gloo_threads()


def _train_a_step(world) -> None:
    model, processor = tiny_model()
    model.requires_grad_(False)
    model.policy.requires_grad_(True)
    engine = engine_for(model, world)
    engine.backward(engine(Collator(processor)(tiny_samples())).loss)
    engine.step()
    engine.destroy()


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def test_a_closed_world_leaves_no_thread_that_could_abort_the_process_while_python_shuts_down():
    on_processes(_leave)


def test_modules_that_default_to_the_group_of_all_processes_do_not_keep_it():
    """As `torch.distributed.nn` would, imported by some library after the group was made."""
    script = """
import utils.distributed, torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
import torch.distributed.nn.functional
dist.all_gather_object([None], 1)
dist.destroy_process_group()
from tests.training.test_processes import gloo_threads
assert not gloo_threads(), gloo_threads()
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True)


def _compare_gradients(world, estimator: str, baseline: str) -> None:
    """The mean over two processes of the gradients of one micro-batch each, and over both at one process."""
    options = {"estimator": estimator, "baseline_type": baseline}
    model, processor = tiny_model(**options)
    batches = [Collator(processor)([sample]) for sample in tiny_samples()]
    choices = [torch.tensor([0, 1, 2][: len(batch.seg_positions)]) for batch in batches]
    model.policy.reward_mean.fill_(-3.0)
    # Both draw what their number says, since leave_one_out draws layers besides the given ones.
    torch.manual_seed(world.rank)
    model(batches[world.rank], choices[world.rank]).loss.backward()
    ours = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    for gradient in ours.values():
        world.sum(gradient).div_(2)

    alone, _ = tiny_model(**options)
    for number, (batch, choice) in enumerate(zip(batches, choices)):
        alone.policy.reward_mean.fill_(-3.0)
        torch.manual_seed(number)
        (alone(batch, choice).loss / 2).backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, alone.get_parameter(name).grad, rtol=1e-4, atol=1e-6)
    assert ours["policy.gate"].abs().sum() > 0


@pytest.mark.parametrize(("estimator", "baseline"), [("sample", "ema"), ("sample", "critic"), ("expected", "none")])
def test_the_gradient_of_two_processes_is_that_of_both_micro_batches_at_one(estimator, baseline):
    on_processes(_compare_gradients, estimator, baseline)


def _train_in(world, precision: str) -> None:
    if precision == "fp16":
        pretend_fp16()
    model, processor = tiny_model()
    batch = Collator(processor)(tiny_samples()[world.rank :][:1])
    engine = engine_for(model, world, precision=precision)
    losses = []
    for _ in range(24):  # in fp16 the scale of the loss has to come down first
        torch.manual_seed(0)
        loss = engine(batch).loss
        losses.append(loss.item())
        engine.backward(loss)
        engine.step()
    assert engine.module.policy.gate.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert engine.module.policy.reward_mean.dtype == torch.float32
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_two_processes_learn_in(precision):
    on_processes(_train_in, precision)
