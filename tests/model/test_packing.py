"""Packed rows give what plain rows give: the same losses, the same gradients, the same masks."""

import pytest
import torch

from dataloaders.collate import Collator
from model.systems import SYSTEMS
from tests.tiny import text_only_sample, tiny_model, tiny_samples


def losses_and_gradients(model, batch, layer_choice):
    model.zero_grad()
    if model.system.uses_policy:
        model.policy.reward_mean.zero_()
    output = model(batch, layer_choice=layer_choice)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in output.losses.items()}, gradients


@pytest.mark.parametrize("padded", [False, True], ids=["cropped", "padded"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_packed_rows_equal_plain_rows(system, padded):
    model, processor = tiny_model(system, pad_train_clip_images=padded)
    samples = [*tiny_samples(), text_only_sample()]
    choice = torch.tensor([0, 3, 1, 2])
    packed, packed_gradients = losses_and_gradients(model, Collator(processor)(samples), choice)
    plain, plain_gradients = losses_and_gradients(model, Collator(processor, packed=False)(samples), choice)
    assert packed == pytest.approx(plain, rel=1e-5)
    assert packed_gradients.keys() == plain_gradients.keys()
    for name, gradient in packed_gradients.items():
        assert torch.allclose(gradient, plain_gradients[name], atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_batched_images_equal_single_images(system):
    model, processor = tiny_model(system)
    model.eval()
    collate = Collator(processor)
    together = model.segment(collate(tiny_samples()))
    alone = [model.segment(collate([sample]))[0] for sample in tiny_samples()]
    for one, other in zip(together, alone, strict=True):
        assert one.decisions == other.decisions
        assert one.layers == other.layers
        assert torch.allclose(one.mask_logits, other.mask_logits, atol=1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_batch_without_targets_gives_every_parameter_the_gradients_of_one_with(system):
    model, processor = tiny_model(system)
    collate = Collator(processor)
    with_targets = losses_and_gradients(model, collate(tiny_samples()), None)[1]
    losses, gradients = losses_and_gradients(model, collate([text_only_sample()]), None)
    assert losses["mask_loss"] == 0
    assert gradients.keys() == with_targets.keys()
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
