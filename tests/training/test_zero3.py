"""ZeRO 3 trains as ZeRO 2 does, whatever each process holds, and validates between steps."""

import pytest
import torch

from dataloaders.batching.collate import Collator
from model import losses
from model.lora import add_lora
from tests.tiny import text_only_sample, tiny_model, tiny_samples
from tests.training.test_processes import on_processes, only_rejections
from training.engine import WHOLE_MODULES, whole_weights
from training.trainable import set_trainable, trainable_prefixes

SYSTEMS = ("UGround", "LISA", "READ", "PixelLM", "GSVA", "SESAME")
BATCHES = [[text_only_sample()], tiny_samples(), only_rejections(), tiny_samples()[1:]]


def called_modules(model, batch) -> list[str]:
    """The modules that ZeRO 3 would fetch weights for, in order."""
    called, hooks = [], []

    def watch(module, name: str) -> None:
        if any(True for _ in module.parameters(recurse=False)) or type(module).__name__ in WHOLE_MODULES:
            hooks.append(module.register_forward_pre_hook(lambda *_: called.append(name)))
        if type(module).__name__ not in WHOLE_MODULES:
            for child_name, child in module.named_children():
                watch(child, f"{name}.{child_name}")

    watch(model, "model")
    model(batch)
    for hook in hooks:
        hook.remove()
    return called


@pytest.mark.parametrize("system", SYSTEMS)
def test_which_modules_are_called_does_not_depend_on_the_batch(system, monkeypatch):
    monkeypatch.setattr(losses.token_losses, "__defaults__", (16,))
    model, processor = tiny_model(system)
    collate = Collator(processor)
    first, *others = (called_modules(model, collate(samples)) for samples in BATCHES)
    assert all(other == first for other in others)
    assert len(first) > 40


def _train(world, system: str, zero_stage: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of four micro-batches, two to a step, and the gradients of the first step."""
    from deepspeed.utils import safe_get_full_grad

    from training.engine import build_optimizer, enable_gradient_checkpointing, engine_config, start_engine

    model, processor = tiny_model(system)
    torch.manual_seed(0)
    add_lora(model, r=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"])
    set_trainable(
        model, trainable_prefixes(model, lora_r=2, train_mask_decoder=True, unfreeze=("mm_projector", "fusion"))
    )
    enable_gradient_checkpointing(model)
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
