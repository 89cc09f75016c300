"""The losses: logits where there is a label and nowhere else, and masks of one size together, a chunk at a time."""

import pytest
import torch
from torch import nn

from dataloaders.batching.collate import Collator
from model import losses as all_losses
from model.losses import (
    gaussian_target,
    losses_of_maps,
    losses_of_masks,
    map_losses,
    map_targets,
    mask_bce,
    mask_dice,
    token_losses,
)
from tests.tiny import text_only_sample, tiny_model, tiny_samples


def test_logits_are_computed_at_labelled_positions_only():
    model, processor = tiny_model()
    batch = Collator(processor)([*tiny_samples(), text_only_sample()])
    positions = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: positions.append(inputs[0].shape[0]))
    model(batch)
    assert sum(positions) == len(batch.label_ids) < batch.input_ids.numel() / 2


def test_chunks_give_the_losses_and_gradients_of_the_whole():
    torch.manual_seed(0)
    head, states, labels = nn.Linear(16, 500, bias=False), torch.randn(70, 16), torch.randint(0, 500, (70,))
    results = []
    for chunk in (70, 16):
        head.zero_grad()
        leaf = states.clone().requires_grad_()
        losses = token_losses(head, leaf, labels, chunk)
        losses.sum().backward()
        results.append((losses.detach(), leaf.grad, head.weight.grad.clone()))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole)


def test_a_chunk_is_the_most_that_is_kept_of_a_large_vocabulary():
    vocabulary, chunk = 5000, 32
    head = nn.Linear(8, vocabulary, bias=False)
    states, labels = torch.randn(256, 8, requires_grad=True), torch.zeros(256, dtype=torch.int64)
    largest = 0

    def pack(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel() if tensor.data_ptr() != head.weight.data_ptr() else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_losses(head, states, labels, chunk)
    assert largest < chunk * vocabulary


def masks_of(*images: tuple[int, tuple[int, int]]) -> list[torch.Tensor]:
    """Random boolean masks [m, H, W] of images given as (m, (H, W))."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand((count, *size), generator=generator) > 0.6 for count, size in images]


SIZES = ((2, (20, 30)), (0, (20, 30)), (3, (16, 16)), (1, (20, 30)), (1, (16, 16)))
SOME_IGNORED = [torch.rand(20, 30) > 0.8, None, None, None, torch.zeros(16, 16, dtype=torch.bool)]


@pytest.mark.parametrize("ignore", [[None] * len(SIZES), SOME_IGNORED], ids=["all_count", "some_ignored"])
@pytest.mark.parametrize("pixels", [1, 2**20], ids=["a_mask_at_a_time", "a_size_at_a_time"])
def test_losses_of_stacked_masks_and_maps_are_those_of_each_image(ignore, pixels, monkeypatch):
    monkeypatch.setattr(all_losses, "PIXEL_CHUNK", pixels)
    monkeypatch.setattr(all_losses, "KEPT_PIXELS", 0)
    masks = masks_of(*SIZES)
    logits = [torch.randn(mask.shape, requires_grad=True) for mask in masks]
    targets = map_targets(masks, ignore)
    stacked = torch.cat(
        [losses_of_masks(lambda image, piece: piece, logits, masks, ignore), losses_of_maps(logits, targets)]
    )
    by_image = [
        torch.stack([mask_bce(*one), mask_dice(*one), *map_losses(one[0], gaussian_target(one[1]), one[2])])
        for one in zip(logits, masks, ignore, strict=True)
        if len(one[0])
    ]
    alone = torch.cat(by_image, dim=1)
    torch.testing.assert_close(stacked, alone)
    weights = torch.rand_like(alone)
    used = [each for each in logits if len(each)]
    for actual, expected in zip(
        *(torch.autograd.grad((weights * losses).sum(), used) for losses in (stacked, alone)), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_map_losses_weigh_the_positive_side_by_its_rarity_in_the_whole_image():
    """Against the formula written out: the weight is the soft negatives over the soft positives of all masks."""
    maps, targets, ignore = torch.rand(2, 8, 8), torch.rand(2, 8, 8) * 0.3, torch.rand(8, 8) > 0.7
    kept = (~ignore).float()
    weight = ((1 - targets) * kept).sum() / (targets * kept).sum()
    p = maps.sigmoid()
    bce = -(weight * targets * p.log() + (1 - targets) * (1 - p).log()) * kept
    overlap, total = (p * targets * weight * kept).sum((1, 2)), ((p + targets * weight) * kept).sum((1, 2))
    found = map_losses(maps, targets, ignore)
    torch.testing.assert_close(found[0], bce.sum((1, 2)) / kept.sum())
    torch.testing.assert_close(found[1], 1 - 2 * overlap / total)


def test_masks_of_one_size_take_one_pass_whatever_image_they_belong_to(monkeypatch):
    monkeypatch.setattr(all_losses, "PIXEL_CHUNK", 4 * 20 * 30)
    monkeypatch.setattr(all_losses, "KEPT_PIXELS", 0)
    calls = []

    def at_original_size(image, logits):
        calls.append((image, len(logits)))
        return logits

    masks = masks_of(*SIZES)
    logits = [torch.randn(mask.shape) for mask in masks]
    losses_of_masks(at_original_size, logits, masks, [None] * len(masks))
    assert calls == [(0, 3), (2, 4)]  # the first, second and fourth image; the third and fifth


def test_what_the_losses_keep_of_a_pixel_of_many_is_its_logit_and_its_target(monkeypatch):
    monkeypatch.setattr(all_losses, "KEPT_PIXELS", 3 * 64 * 64 - 1)
    masks = masks_of((3, (64, 64)))
    small = [torch.randn(3, 8, 8, requires_grad=True)]
    maps = [torch.rand(3, 64, 64, requires_grad=True)]
    targets = map_targets(masks, [None])
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def at_original_size(image, logits):
        return nn.functional.interpolate(logits.unsqueeze(1), (64, 64), mode="bilinear").squeeze(1)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = [losses_of_masks(at_original_size, small, masks, [None]), losses_of_maps(maps, targets)]
    assert sum(sizes.values()) <= 3 * 64 * 64 * (1 + 4 + 4) + 2048
    assert torch.isfinite(torch.cat(kept)).all()


@pytest.mark.parametrize("size", [(40, 50), (150, 201)])
def test_the_blur_is_that_of_a_square_kernel(size):
    masks = masks_of((2, size))[0]
    line = torch.exp(-((torch.arange(31) - 15.0) ** 2) / (2 * 7.0**2))
    kernel = line[:, None] * line[None, :]
    padded = nn.functional.pad(masks.float().unsqueeze(1), (15, 15, 15, 15), mode="reflect")
    blurred = nn.functional.conv2d(padded, (kernel / kernel.sum())[None, None]).squeeze(1)
    torch.testing.assert_close(gaussian_target(masks), blurred / blurred.amax(dim=(1, 2), keepdim=True))


def test_a_mask_is_blurred_once_however_many_layers_are_scored(monkeypatch):
    model, processor = tiny_model(estimator="expected", map_loss_layers="all")
    batch = Collator(processor)(tiny_samples())
    blurred = []
    blur = all_losses.gaussian_target
    monkeypatch.setattr(all_losses, "gaussian_target", lambda masks: blurred.append(len(masks)) or blur(masks))
    model(batch).loss.backward()
    assert sum(blurred) == len(batch.seg_positions)
