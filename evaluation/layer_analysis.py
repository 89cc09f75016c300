"""What every layer would have done: masks from each hidden state, beside the policy's probability of it.

The given answers are read once and every image is encoded once; only similarity maps and mask decoding are done for
each layer.

Legend: S targets, m targets of one image, L+1 hidden states, H W size of an image.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from checkpoints.processing import GroundingProcessor
from dataloaders.batching.batch import Batch
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError
from groundscore.scoring.counts import ious
from groundscore.splits import EvaluationItem
from groundscore.splits.wording import worded
from model.grounding import GroundingModel
from model.losses import gaussian_target, losses_of_maps, map_losses, map_targets, mask_bce, mask_dice
from model.similarity import map_on_image, similarity_scores
from model.states import TargetStates
from model.systems.base import Prompt

MASKS_AT_ONCE = 128


@dataclass
class LayerScores:
    """Layers side by side, for the `[SEG]` of given answers.

    iou float32 [S, L+1]: of the mask that each layer prompts with the true one, over the pixels that count; 1 where
        both are empty.
    loss float32 [S, L+1]: the mask loss of training with that layer: BCE and Dice of the mask, and of the similarity
        map where the checkpoint trains its maps, by training's weights.
    probabilities float32 [S, L+1]: the policy's; 1 for the last layer where the checkpoint has no policy to ask.
    """

    iou: Tensor
    loss: Tensor
    probabilities: Tensor

    @property
    def greedy(self) -> Tensor:
        """int64 [S]: the policy's likeliest layer."""
        return self.probabilities.argmax(dim=1)

    @property
    def oracle(self) -> Tensor:
        """int64 [S]: the layer whose mask is best by the truth, which no policy can exceed."""
        return self.iou.argmax(dim=1)

    def mean_iou(self, layers: Tensor) -> float:
        """The mean over targets of the IoU with each target's own layer; layers: int64 [S]."""
        return self.iou.gather(1, layers.unsqueeze(1)).mean().item()


@dataclass
class LayerAnalysis(LayerScores):
    """The scores of a batch's `[SEG]`, and what was scored.

    maps: for every image the similarity maps [m, L+1, H, W] in [0, 1]; masks: bool [m, L+1, H, W].
    decoder_maps: the same on the mask decoder's side, see `decoder_maps`; None where these were not asked for.
    """

    maps: list[Tensor]
    masks: list[Tensor]
    decoder_maps: list[Tensor] | None = None


@torch.no_grad()
def masks_of_prompts(
    model: GroundingModel, batch: Batch, states: TargetStates, features: list[Tensor], prompts: Iterable[Prompt]
) -> Iterator[tuple[Prompt, list[Tensor]]]:
    """Each prompt of the same targets with its mask logits [m, H, W] of every group; several are decoded together.

    features: of the batch's images, from the mask decoder. `MASKS_AT_ONCE` bounds the decoder's memory.
    """
    together = max(1, MASKS_AT_ONCE // max(1, len(states.image)))
    prompts = iter(prompts)
    while some := list(islice(prompts, together)):
        sparse = [prompt.sparse for prompt in some]
        decoded = model.decoder.decode(
            features,
            states.image.repeat(len(some)),
            [each for of in sparse for each in of] if isinstance(sparse[0], list) else torch.cat(sparse),
            None if some[0].dense is None else torch.cat([prompt.dense for prompt in some]),
        )
        of_prompts = zip(*(scale.split(len(states.image)) for scale in decoded.low_res), strict=True)
        for prompt, logits in zip(some, of_prompts, strict=True):
            yield prompt, model.upscale(batch, states, list(logits))


@torch.no_grad()
def decoder_maps(
    model: GroundingModel, batch: Batch, states: TargetStates, features: list[Tensor], layer: int
) -> list[Tensor] | None:
    """Similarity maps [m, H, W] in [0, 1] of every group on the mask decoder's side, as READ draws them (its figure 2).

    They are the products of the projected `[SEG]` state of `layer` with SAM's image embedding, whose cells they have.
    None for a decoder whose features are no single map of the prompt's width.
    """
    seg = states.seg[:, 0, layer]
    text = model.text_hidden_fcs(seg)  # [S, C]
    if len(features) != 1 or features[0].dim() != 4 or features[0].shape[1] != text.shape[1]:
        return None
    cells = features[0].flatten(2).transpose(1, 2)[states.image]  # [S, P, C]
    grid = tuple(features[0].shape[2:])
    groups = zip(similarity_scores(text, cells).split(states.counts), states.groups, states.sizes, strict=True)
    return [
        map_on_image(scores, replace(batch.decoder_images.geometries[image], grid=grid), size)
        for scores, image, size in groups
    ]


@torch.no_grad()
def layer_analysis(model: GroundingModel, batch: Batch, *, both_sides: bool = False) -> LayerAnalysis:
    """Masks of every `[SEG]` of `batch` at all layers; both_sides: with the maps on the mask decoder's side, too.

    batch: on the model's device, with its masks; where they are made up, `iou` and `loss` say nothing.
    Raises `UserError` for systems that always use the last layer.
    """
    if not model.system.uses_policy:
        raise UserError(f"{model.config.system} always uses the last layer: there are no layers to compare")
    number = model.config.num_layers
    if batch.seg_positions.shape[0] == 0:
        nothing = [torch.zeros((0, number, *size), device=model.device) for size in batch.original_sizes]
        empty = torch.zeros((0, number), device=model.device)
        return LayerAnalysis(empty, empty, empty, nothing, [each.bool() for each in nothing])
    states = target_states(model, batch)
    features = model.decoder_features(batch, states.images)
    targets = [gaussian_target(truth) if len(truth) else None for truth in batch.masks]
    maps, masks, losses = [], [], []
    prompts = (model.system.prompt(model, states, batch, layer) for layer in range(number))
    for prompt, logits in masks_of_prompts(model, batch, states, features, prompts):
        maps.append(prompt.maps)
        masks.append([each > 0 for each in logits])
        losses.append(_loss(model, batch, logits, prompt.maps, targets))
    theirs = [decoder_maps(model, batch, states, features, layer) if both_sides else None for layer in range(number)]
    masks = [torch.stack(layers, dim=1) for layers in zip(*masks, strict=True)]
    return LayerAnalysis(
        iou=torch.cat([_iou(*one) for one in zip(masks, batch.masks, batch.ignore, strict=True)]),
        loss=torch.stack(losses, dim=1),
        probabilities=policy_probabilities(model, states),
        maps=[torch.stack(layers, dim=1) for layers in zip(*maps, strict=True)],
        masks=masks,
        decoder_maps=None if theirs[0] is None else [torch.stack(layers, dim=1) for layers in zip(*theirs)],
    )


def analyse_split(
    model: GroundingModel,
    processor: GroundingProcessor,
    items: Sequence[EvaluationItem],
    *,
    batch_size: int,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LayerScores:
    """Scores of all targets of a split's first `limit` images, on the CPU.

    progress(done, total) is called after every batch, with numbers of images.
    """
    total = min(len(items), limit or len(items))
    found = []
    for done, batch in _batches(processor, items, total, batch_size):
        analysis = layer_analysis(model, batch.to(model.device))
        found.append([each.cpu() for each in (analysis.iou, analysis.loss, analysis.probabilities)])
        if progress:
            progress(done, total)
    return LayerScores(*(torch.cat(batches) for batches in zip(*found, strict=True)))


def _batches(
    processor: GroundingProcessor, items: Sequence[EvaluationItem], total: int, batch_size: int
) -> Iterator[tuple[int, Batch]]:
    """The first `total` images with their given answers, `batch_size` at a time: images so far, and a batch."""
    collate = Collator(processor, packed=True, max_length=None, check_masks=False)
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        yield stop, collate([sample_of(items[index]) for index in range(start, stop)])


def sample_of(item: EvaluationItem, chosen: Sequence[int] | None = None) -> Sample:
    """An image's expressions, or the `chosen` ones, as conversations with their given answers."""
    masks = item.masks if chosen is None else item.masks[list(chosen)]
    chosen = range(len(item.expressions)) if chosen is None else chosen
    if item.target_masks is not None:
        masks = np.concatenate([item.target_masks[each] for each in chosen])
    words = worded(item)
    conversations = [(Turn(words.prompts[each], words.answers[each]),) for each in chosen]
    return Sample(item.image_path, item.image, conversations, masks, item.ignore, "evaluation", item.dataset)


def target_states(model: GroundingModel, batch: Batch) -> TargetStates:
    """The hidden states of the batch's targets, from reading its given answers once."""
    images = model.encode_images(batch)
    return model.target_states(batch, images, model.read(batch, images))


def policy_probabilities(model: GroundingModel, states: TargetStates) -> Tensor:
    """The policy's probabilities of every target [S, L+1]; 1 for the last layer where no policy is asked."""
    if model.config.mode != 1:
        return model.policy(states.seg[:, 0]).exp()
    probabilities = torch.zeros((len(states.image), model.config.num_layers), device=states.image.device)
    probabilities[:, -1] = 1
    return probabilities


def _loss(model: GroundingModel, batch: Batch, logits: list[Tensor], maps: list[Tensor], blurred: list) -> Tensor:
    """[S] of one layer: for every image its mask logits and maps [m, H, W] and the blurred true masks [m, H, W]."""
    weights, losses = model.loss_weights, []
    for mask, truth, ignore, similarity, target in zip(logits, batch.masks, batch.ignore, maps, blurred, strict=True):
        if target is None:
            continue
        bce, dice = mask_bce(mask, truth, ignore), mask_dice(mask, truth, ignore)
        if model.config.map_loss:
            of_map = map_losses(similarity, target, ignore)
            bce, dice = bce + of_map[0], dice + of_map[1]
        losses.append(weights.bce * bce + weights.dice * dice)
    return torch.cat(losses)


def _iou(masks: Tensor, truth: Tensor, ignore: Tensor | None) -> Tensor:
    """[m, L+1] of masks [m, L+1, H, W] with the true ones [m, H, W]."""
    truth = truth.bool().unsqueeze(1)
    kept = torch.ones_like(truth) if ignore is None else ~ignore
    counts = [(pixels & kept).sum(dim=(2, 3)).cpu().numpy() for pixels in (masks & truth, masks | truth)]
    return torch.from_numpy(ious(*counts)).float().to(masks.device)


@torch.no_grad()
def layer_rewards(
    model: GroundingModel,
    processor: GroundingProcessor,
    items: Sequence[EvaluationItem],
    *,
    limit: int,
    batch_size: int = 16,
) -> tuple[Tensor, Tensor]:
    """States and rewards that the policy is trained from, for all targets of the first `limit` images, on the CPU.

    Returns the targets' states [S, L+1, D] and the reward of each layer [S, L+1], minus its map loss.
    """
    seen, rewards = [], []
    for _, batch in _batches(processor, items, min(limit, len(items)), batch_size):
        batch = batch.to(model.device)
        states = target_states(model, batch)
        seen.append(states.seg[:, 0].float().cpu())
        targets = map_targets(batch.masks, batch.ignore)
        losses = []
        for layer in range(model.config.num_layers):
            prompt = model.system.prompt(model, states, batch, layer)
            losses.append(losses_of_maps(prompt.maps, targets).sum(dim=0))  # whether or not the maps are trained
        rewards.append(-torch.stack(losses, dim=1).float().cpu())
    return torch.cat(seen), torch.cat(rewards)


# --- READ's points ----------------------------------------------------------------------------------------------------


@dataclass
class TargetPoints:
    """One `[SEG]`: its mask bool [H, W], its similarity map [H, W] in [0, 1], its points [K, 2] (x, y) in pixels of the
    image, and their labels [K]: 1 inside, 0 outside, -1 neither."""

    mask: Tensor
    similarity: Tensor
    points: Tensor
    labels: Tensor


@torch.no_grad()
def point_analysis(model: GroundingModel, batch: Batch) -> list[TargetPoints]:
    """The points of every `[SEG]` of the batch's given answers, in order; `batch` on the model's device."""
    states = target_states(model, batch)
    prompt = model.system.prompt(model, states, batch, "last")
    if prompt.points is None or prompt.maps is None:
        raise UserError(f"{model.config.system} prompts its masks without points")
    masks = [logits > 0 for group in model.masks(batch, states, prompt)[0] for logits in group]
    maps = [similarity for group in prompt.maps for similarity in group]
    points = [pair for group in prompt.points for pair in zip(*group, strict=True)]
    return [TargetPoints(mask, similarity, *pair) for mask, similarity, pair in zip(masks, maps, points, strict=True)]
