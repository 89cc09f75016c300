"""DeepSpeed around the model: optimizer, schedule, ZeRO 3, deterministic algorithms."""

import json
import os
import subprocess
import sys

import pytest
import torch
from deepspeed.runtime.lr_schedules import WarmupDecayLR

from dataloaders.batching.collate import Collator
from model import losses
from model.lora import add_lora
from tests.tiny import text_only_sample, tiny_model, tiny_samples
from tests.training.test_processes import on_processes, only_rejections
from tests.training.test_train_ds import ROOT, TRAINING, run_train_ds, write_reason_seg
from training.engine import WHOLE_MODULES, build_optimizer, engine_config, whole_weights
from training.trainable import set_trainable, trainable_prefixes
from utils.seeding import use_deterministic_algorithms

NUMBERS = {"lr": 3e-4, "warmup_min_lr": 1e-5, "warmup_num_steps": 4, "total_steps": 12}


def config(**changes):
    values = {
        "batch_size": 2,
        "accumulation": 10,
        "world_size": 3,
        "precision": "bf16",
        "zero_stage": 2,
        "overlap": True,
    }
    return engine_config(**{**values, **NUMBERS, **changes})


def schedule_value(step: int, *, lr: float, warmup_min_lr: float, warmup_num_steps: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0: linear warm-up, then linear decay."""
    if step < warmup_num_steps:
        return warmup_min_lr + (lr - warmup_min_lr) * step / warmup_num_steps
    return warmup_min_lr + (lr - warmup_min_lr) * max(0.0, (total_steps - step) / (total_steps - warmup_num_steps))


def test_learning_rates_warm_up_and_decay_linearly():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = WarmupDecayLR(optimizer, **config()["scheduler"]["params"])
    seen = []
    for _ in range(13):
        scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([schedule_value(step, **NUMBERS) for step in range(13)])
    assert seen[0] == 1e-5
    assert seen[4] == max(seen) == pytest.approx(3e-4)
    assert seen[12] == pytest.approx(1e-5)


def test_the_configuration_is_the_reference_s():
    values = config()
    assert values["train_batch_size"] == 60
    assert values["gradient_clipping"] == 1.0
    assert values["bf16"] == {"enabled": True} and values["fp16"] == {"enabled": False}
    zero = values["zero_optimization"]
    assert zero["stage"] == 2 and zero["overlap_comm"] and zero["contiguous_gradients"] and zero["reduce_scatter"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == 200_000_000


def test_no_warm_up_is_allowed():
    assert config(warmup_num_steps=0)["scheduler"]["params"]["warmup_num_steps"] == 1


SYSTEMS = ("UGround", "LISA", "READ", "PixelLM", "GSVA", "SESAME")
BATCHES = [[text_only_sample()], tiny_samples(), only_rejections(), tiny_samples()[1:]]


def test_muon_trains_the_linear_layers_and_adamw_the_rest():
    model, twin = tiny_model()[0], tiny_model()[0]
    for each in (model, twin):
        each.requires_grad_(True)
        generator = torch.Generator().manual_seed(0)
        for parameter in each.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    head = twin.lm_head.weight
    matrices = [each.weight for each in twin.modules() if isinstance(each, torch.nn.Linear) and each.weight is not head]
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in twin.parameters() if id(parameter) not in chosen]

    optimizer = build_optimizer(model, lr=1e-2, betas=(0.9, 0.95), muon=True)
    optimizer.skip = True
    optimizer.step()
    assert not optimizer.state
    optimizer.skip = False
    optimizer.step()
    torch.optim.Muon(matrices, lr=1e-2, weight_decay=0, adjust_lr_fn="match_rms_adamw").step()
    torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.95), weight_decay=0).step()

    for (name, parameter), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, msg=lambda text, name=name: f"{name}: {text}")
    assert len(matrices) > 20


def called_modules(model, batch) -> list[str]:
    """The modules that ZeRO 3 would fetch weights for, in order."""
    called, hooks = [], []

    def watch(module, name: str) -> None:
        if any(True for _ in module.parameters(recurse=False)) or isinstance(module, WHOLE_MODULES):
            hooks.append(module.register_forward_pre_hook(lambda *_: called.append(name)))
        if not isinstance(module, WHOLE_MODULES):
            for child_name, child in module.named_children():
                watch(child, f"{name}.{child_name}")

    watch(model, "model")
    model(batch)
    for hook in hooks:
        hook.remove()
    return called


DECODERS = [("UGround", "sam_hq"), ("READ", "sam2"), ("UGround", "sam3_tracker")]


@pytest.mark.parametrize(("system", "decoder"), [*((system, "sam") for system in SYSTEMS), *DECODERS])
def test_which_modules_are_called_does_not_depend_on_the_batch(system, decoder, monkeypatch):
    monkeypatch.setattr(losses.token_losses, "__defaults__", (16,))
    model, processor = tiny_model(system, mask_decoder=decoder)
    collate = Collator(processor)
    first, *others = (called_modules(model, collate(samples)) for samples in BATCHES)
    assert all(other == first for other in others)
    assert len(first) > 40


def _train(world, system: str, zero_stage: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of four micro-batches, two to a step, and the gradients of the first step."""
    from deepspeed.utils import safe_get_full_grad

    from training.engine import start_engine

    model, processor = tiny_model(system)
    torch.manual_seed(0)
    add_lora(model, r=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"])
    set_trainable(
        model, trainable_prefixes(model, lora_r=2, train_mask_decoder=True, unfreeze=("mm_projector", "fusion"))
    )
    model.backbone.checkpoint_gradients()
    config = engine_config(
        batch_size=1, accumulation=2, world_size=world.size, precision="fp32", zero_stage=zero_stage,
        lr=1e-3, warmup_min_lr=1e-3, warmup_num_steps=0, total_steps=10, overlap=False,
    )  # fmt: skip
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # weights as small as these are shared too
    engine = start_engine(model, build_optimizer(model, lr=1e-3, betas=(0.9, 0.95)), config, world)
    collate = Collator(processor)
    values, gradients = [], {}
    for number in range(4):
        batch = collate(BATCHES[(number + world.rank) % 4])
        torch.manual_seed(number)
        engine.train()
        output = engine(batch)
        values.append(output.loss.item())
        engine.backward(output.loss)
        if number == 1:
            trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
            gradients = {name: safe_get_full_grad(parameter).clone() for name, parameter in trained}
        engine.step()
        if number == 1:
            with whole_weights(engine):
                for _ in range(world.rank + 1):
                    values.append(float(model.eval().segment(collate(tiny_samples()))[0].mask_logits.abs().mean()))
    return values, gradients


def _compare_with_zero_2(world, systems) -> None:
    for system in systems:
        (values, gradients), (values_2, gradients_2) = (_train(world, system, stage) for stage in (3, 2))
        assert values == pytest.approx(values_2, rel=1e-4), system
        for name, gradient in gradients_2.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=f"{system} {name}")
        assert sum(gradient.abs().sum() > 0 for gradient in gradients_2.values()) > 50


def test_losses_gradients_and_masks_equal_those_of_zero_2():
    on_processes(_compare_with_zero_2, ["UGround"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_they_do_so_for_every_system(number):
    on_processes(_compare_with_zero_2, SYSTEMS, number=number)


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)


def test_torch_and_cublas_are_told(restored):
    use_deterministic_algorithms()
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_work_space_that_the_user_chose_stays(restored, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    use_deterministic_algorithms()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


LOSSES = """
import sys
import torch
from dataloaders.batching.collate import Collator
from tests.tiny import tiny_model, tiny_samples
from utils.seeding import seed_everything, use_deterministic_algorithms
torch.set_num_threads(1)
if sys.argv[1] == "deterministic":
    use_deterministic_algorithms()
model, processor = tiny_model()
seed_everything(0)
output = model(Collator(processor)(tiny_samples()))
output.loss.backward()
gradients = [each.grad.double().abs().sum().item() for each in model.parameters() if each.grad is not None]
print(output.loss.item(), gradients)
"""


def test_losses_and_gradients_on_a_cpu_are_those_without():
    def numbers(how: str) -> str:
        command = [sys.executable, "-W", "error::UserWarning", "-c", LOSSES, how]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert numbers("deterministic") == numbers("as always") != ""


@pytest.mark.slow
def test_a_run_with_it_has_the_losses_of_one_without(tmp_path):
    from checkpoints import save_model
    from tests.tiny import tiny_model

    write_reason_seg(tmp_path / "dataset")
    save_model(*tiny_model(), tmp_path / "base")
    flags = ["--version", tmp_path / "base", "--dataset_dir", tmp_path / "dataset", "--log_base_dir", tmp_path]
    losses = []
    for name, extra in (("with", ["--deterministic"]), ("without", [])):
        done = run_train_ds(*flags, *TRAINING, "--no_eval", "--exp_name", name, *extra)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train/loss"] for line in lines])
    assert losses[0] == losses[1] and len(losses[0]) == 4
