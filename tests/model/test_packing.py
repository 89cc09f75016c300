"""Packed rows give what plain rows give: the same losses, the same gradients, the same masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from model.systems import SYSTEMS
from tests.tiny import box_mask, text_only_sample, tiny_model, tiny_samples


def losses_and_gradients(model, batch, layer_choice):
    torch.manual_seed(0)  # the policy may draw more layers to compare
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
    assert packed == pytest.approx(plain, rel=1e-5, abs=1e-6)
    assert packed_gradients.keys() == plain_gradients.keys()
    for name, gradient in packed_gradients.items():
        assert torch.allclose(gradient, plain_gradients[name], atol=1e-4, rtol=1e-3), name


def mixed_samples() -> list[Sample]:
    """One image asked about in every way: single and double targets, a rejection, several turns with targets in each,
    no target at all; an image with a dialogue only; another prefix, for an image asked about twice."""
    first, second = tiny_samples()
    several_turns = (
        Turn("What is the tree?", "It is [SEG]."),
        Turn("And the boat and the house?", "They are [SEG] and [SEG]."),
        Turn("Where is the one near the ball?", "Sure, [REJ]."),
    )
    more = np.stack([box_mask(40, 60, (top, 3, top + 8, 50)) for top in (2, 12, 25)] + [box_mask(40, 60, (0, 0, 0, 0))])
    mixed = replace(
        first,
        conversations=[*first.conversations, several_turns, (Turn("What is near?", "The green tree and the boat."),)],
        masks=np.concatenate([first.masks, more]),
        expressions=(),
    )
    return [text_only_sample(), mixed, second, replace(second, family="vqa", dataset="again")]


@pytest.mark.parametrize("system", SYSTEMS)
def test_mixed_families_turns_and_missing_targets_packed_equal_plain_rows(system):
    model, processor = tiny_model(system)
    batches = [Collator(processor, packed=packed)(mixed_samples()) for packed in (True, False)]
    assert len(batches[0].input_ids) == 4 < len(batches[1].input_ids)
    choice = torch.arange(len(batches[0].seg_positions)) % 4
    (packed, packed_gradients), (plain, plain_gradients) = (
        losses_and_gradients(model, batch, choice) for batch in batches
    )
    assert packed == pytest.approx(plain, rel=1e-5, abs=1e-6)
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


@pytest.mark.parametrize("padded", [False, True], ids=["cropped", "padded"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_decisions_and_masks_of_mixed_samples_packed_equal_plain_rows(system, padded):
    model, processor = tiny_model(system, pad_train_clip_images=padded)
    model.eval()
    packed, plain = (model.segment(Collator(processor, packed=way)(mixed_samples())) for way in (True, False))
    assert [len(one.mask_logits) for one in packed] == [0, 6, 1, 1]
    assert [len(one.decisions) for one in packed] == [0, 8, 1, 1]
    for one, other in zip(packed, plain, strict=True):
        assert (one.decisions, one.layers) == (other.decisions, other.layers)
        torch.testing.assert_close(one.mask_logits, other.mask_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"estimator": "expected"}, {"mode": 1}, {"map_loss_layers": "all"}], ids=str)
def test_other_rules_of_the_policy_packed_equal_plain_rows(options):
    model, processor = tiny_model(**options)
    batches = [Collator(processor, packed=packed)(mixed_samples()) for packed in (True, False)]
    choice = torch.arange(len(batches[0].seg_positions)) % 4
    (packed, packed_gradients), (plain, plain_gradients) = (
        losses_and_gradients(model, batch, choice) for batch in batches
    )
    assert packed == pytest.approx(plain, rel=1e-5, abs=1e-6)
    for name, gradient in packed_gradients.items():
        assert torch.allclose(gradient, plain_gradients[name], atol=1e-4, rtol=1e-3), name
