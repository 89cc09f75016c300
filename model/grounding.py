"""The shared skeleton of all systems: images and text -> hidden states -> prompts -> masks and losses.

Legend: I images, n images of one group, N image tokens of all images, R rows, T tokens of a row, P cells of the largest
grid, S targets, m targets of one group, c tokens per target, D width of the LLM, C width of a prompt, H W original size
of an image.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dataloaders.batching.batch import Batch, ImageGroup
from groundscore.errors import UserError
from model.backbones import backbone_of
from model.backbones.base import Backbone, EncodedImages, Rows
from model.config import GroundingConfig
from model.decoders.base import DecodedTargets, MaskDecoder
from model.feature_cache import EncoderFeatures, FeatureCache
from model.generation import generate_answers
from model.losses import losses_of_masks
from model.outputs import Answer, ForcedMasks, GroundingOutput, LossParts, LossWeights, Segmentation
from model.settings import LONGEST_ANSWER
from model.states import TargetStates
from model.systems import build_system
from model.systems.base import Prompt


class GroundingModel(PreTrainedModel):
    """A backbone and a mask decoder, the projection of `[SEG]` states to prompts, and what the system adds.

    The children of backbone and decoder are children of the model, under their own names: those of its checkpoints.
    `loss_weights` weighs the terms of the training loss; the training script sets it.
    """

    config_class = GroundingConfig
    base_model_prefix = "grounding"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    backbone: Backbone
    decoder: MaskDecoder

    def __init__(self, config: GroundingConfig):
        super().__init__(config)
        self.system = build_system(config)
        decoder = self.system.decoder()
        width = config.width
        self._decodes_from_backbone = decoder.scales(config) > 0
        self._adopt("backbone", backbone_of(config)(config, decoder.scales(config)))
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.out_dim), nn.Dropout(0.0)
        )
        self._adopt("decoder", decoder(config))
        modules = self.system.modules()
        own_decoder = [child for child, _ in self.decoder.named_children()] if self._decodes_from_backbone else []
        self.system_modules = (*own_decoder, *modules)  # what comes with the system and not with a base
        for name, module in modules.items():
            self.add_module(name, module)
        self.loss_weights = LossWeights()
        self.feature_caches: dict[str, EncoderFeatures] = {}  # by "backbone" and "decoder"
        self.prompts_at_a_time: int | None = None  # that memory sufficed for, once it has not for more
        self.post_init()

    @property
    def added_modules(self) -> tuple[str, ...]:
        """Names of the modules that a base model lacks."""
        return ("text_hidden_fcs", *self.backbone.added_modules, *self.system_modules)

    def _adopt(self, name: str, part: Backbone | MaskDecoder) -> None:
        """Makes the part's children the model's, so that `name` is in no name of a parameter."""
        assert not list(part.parameters(recurse=False)), f"{type(part).__name__} has parameters beside its modules"
        object.__setattr__(self, name, part)  # not as a child
        for child_name, child in part.named_children():
            self.add_module(child_name, child)

    def push_to_hub(self, repo_id: str, **_: Any) -> None:
        """Refuses what would upload the weights alone: tokenizer, image settings and card belong to them."""
        raise UserError(
            f"use checkpoints.push_to_hub(model, processor, {repo_id!r}): a model needs its tokenizer there"
        )

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the word embeddings."""
        return self.backbone.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the word embeddings."""
        self.backbone.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """Returns the LLM's head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replaces the LLM's head."""
        self.lm_head = self.backbone.lm_head = value

    def forward(self, batch: Batch, layer_choice: Tensor | None = None) -> GroundingOutput:
        """Losses of one micro-batch with given answers; `layer_choice` int64 [S] replaces the policy's sampling."""
        images = self.encode_images(batch)
        unrolled = self.read(batch, images)
        ce = self.lm_head(unrolled[-1].flatten(0, 1)[batch.label_positions], batch.label_ids)
        ce_loss = self.loss_weights.ce * ce.sum() / max(len(ce), 1)  # zero, with a graph, where nothing is labelled

        # Without a target a stand-in takes part with weight zero: every parameter then has a gradient on every
        # process, and collectives match.
        present = batch.seg_positions.shape[0] > 0
        if not present:
            batch = _with_stand_in(batch, self.config.tokens_per_target)
        states = self.target_states(batch, images, unrolled)
        prompt = self.system.prompt(self, states, batch, "sample", layer_choice)
        low_res = self.decode(batch, states, prompt).low_res

        own = self.system.own_losses(self, prompt, states, batch, present)
        bce, dice = self._mask_losses(batch, states.counts, low_res)
        if own is not None:
            bce, dice = bce + own.mask_bce, dice + own.mask_dice
        scale = float(present) / (len(bce) + 1e-8)
        losses = {
            "ce_loss": ce_loss,
            "mask_bce_loss": self.loss_weights.bce * scale * bce.sum(),
            "mask_dice_loss": self.loss_weights.dice * scale * dice.sum(),
        }
        losses["mask_loss"] = losses["mask_bce_loss"] + losses["mask_dice_loss"]
        loss = ce_loss + losses["mask_loss"]
        statistics = {}
        if own is not None and own.policy is not None:
            losses["policy_loss"] = own.policy * float(present)
            loss = loss + self.loss_weights.policy * losses["policy_loss"]
            statistics = own.statistics if present else {}  # a stand-in's would pull the means
        losses["loss"] = loss
        targets = len(bce) if present else 0
        return GroundingOutput(
            loss=loss,
            losses=losses,
            statistics=statistics,
            loss_parts=LossParts(
                ce=self.loss_weights.ce * ce.detach(),
                bce=self.loss_weights.bce * bce.detach()[:targets],
                dice=self.loss_weights.dice * dice.detach()[:targets],
            ),
            low_res_masks=low_res,
            pred_embeddings=prompt.text,
            similarity_maps=prompt.maps,
        )

    @torch.no_grad()
    def segment(self, batch: Batch, layer: str | int | None = None) -> list[Segmentation]:
        """Masks for the `[SEG]` of given answers, one result per image; see `Segmentation`."""
        forced = self.force(batch, torch.cat([batch.seg_positions[:, 0], batch.rej_positions[:, 0]]), layer)
        decisions = self._decisions(batch, forced.written)
        layers = forced.layers.split([len(masks) for masks in batch.masks])
        maps = forced.similarity_maps or [None] * len(decisions)
        scores = forced.object_scores or [None] * len(decisions)
        return [
            Segmentation(logits, decided, chosen.tolist(), similarity_maps=of_image, object_scores=present)
            for logits, decided, chosen, of_image, present in zip(
                forced.mask_logits, decisions, layers, maps, scores, strict=True
            )
        ]

    @torch.no_grad()
    def force(self, batch: Batch, decided: Tensor, layer: str | int | None = None) -> ForcedMasks:
        """Masks for the `[SEG]` of given answers, and the tokens that the model would write at flat positions
        `decided` int64 [Q]; all results stay on the device."""
        layer = self.system.layer_rule(layer)
        states, written = self.read_given(batch, decided)
        if states is None:
            empty = [torch.zeros((0, *size), device=written.device) for size in batch.original_sizes]
            return ForcedMasks(empty, written, layers=batch.seg_image, similarity_maps=None)
        prompt = self.system.prompt(self, states, batch, layer)
        masks, scores = self.masks(batch, states, prompt)
        return ForcedMasks(masks, written, prompt.layers, prompt.maps, scores)

    @torch.no_grad()
    def read_given(self, batch: Batch, decided: Tensor) -> tuple[TargetStates | None, Tensor]:
        """The states of the `[SEG]` of given answers, None where there is none, and the tokens int64 [Q] that the model
        would write at the flat positions `decided` int64 [Q]."""
        images = self.encode_images(batch)
        unrolled = self.read(batch, images)
        written = self.lm_head(unrolled[-1].flatten(0, 1)[decided]).argmax(dim=-1)
        states = self.target_states(batch, images, unrolled) if batch.seg_positions.shape[0] else None
        return states, written

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        max_new_tokens: int = LONGEST_ANSWER,
        layer: str | int | None = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Answer]:
        """Writes an answer to every prompt, a row or a branch of one, and decodes its masks; see `generation.py`.

        on_token(number of the answer, token id) is called as tokens are written.
        """
        return generate_answers(self, batch, max_new_tokens, self.system.layer_rule(layer), on_token)

    # --- images

    def encode_images(self, batch: Batch) -> EncodedImages:
        """Returns the images as the LLM reads them, each encoded once, unless the features are cached."""
        groups = batch.backbone_images.groups
        if "backbone" in self.feature_caches and batch.image_keys is not None:
            features = [self._features("backbone", group, batch.image_keys) for group in groups]
        else:
            features = self.backbone.encode_groups(groups)
        tokens, visible, injected = [], [], []
        projected = self.backbone.project_groups(features, groups)
        for group, of_encoder, (of_group, seen) in zip(groups, features, projected, strict=True):
            tokens.append(of_group.flatten(0, 1))  # [n · tokens, D]
            visible.append(None if seen is None else seen.flatten())
            injected.append([each.flatten(0, 1) for each in self.backbone.injections(of_encoder, group)])
        seen = None if all(each is None for each in visible) else _joined(_all_visible(visible, tokens))
        of_layers = [_joined(list(of_groups)) for of_groups in zip(*injected, strict=True)]
        return EncodedImages(_joined(tokens), seen, features, of_layers)

    def decoder_features(self, batch: Batch, images: EncodedImages) -> list[Tensor]:
        """Returns the mask decoder's features of all images, one or several tensors [I, …]."""
        if self._decodes_from_backbone:
            return self.decoder.encode(self.backbone.feature_maps(images))
        (group,) = batch.decoder_images.groups
        return self._features("decoder", group, batch.image_keys)

    def _features(self, name: str, group: ImageGroup, keys: list[str] | None) -> list[Tensor]:
        """Returns what the "backbone" or the "decoder" encodes a group to, by way of the cache where there is one.

        keys: says which image of the batch is which, or None where nothing is to be cached.
        """
        part, cache = getattr(self, name), self.feature_caches.get(name)
        if cache is None or keys is None:
            return part.encode(group)
        like = next(part.encoder.parameters())
        return cache.get([keys[i] for i in group.images], like, lambda members: part.encode(group.only(members)))

    def cache_features(self, cache: FeatureCache) -> list[str]:
        """Takes the features of the encoders that are frozen now from `cache`, and stores them there.

        Returns the encoders' names.
        """
        self.feature_caches = {
            name: cache.of(part.encoder, part.encoder_settings())
            for name, part in (("backbone", self.backbone), ("decoder", self.decoder))
            if part.encoder is not None and not any(each.requires_grad for each in part.encoder.parameters())
        }
        return [getattr(self, name).encoder_name for name in self.feature_caches]

    def compile_encoders(self) -> list[str]:
        """Compiles in place the parts whose shapes change with the number of images alone; returns their names.

        They are compiled at their first use, and once more for another number of images in a batch. The names of
        parameters stay the same. The LLM and the mask decoder meet other lengths with every batch and stay as they are.
        """
        parts = self.backbone.compiled_parts() | self.decoder.compiled_parts()
        for module in parts.values():
            module.compile(dynamic=False)
        return list(parts)

    # --- hidden states

    def embed_rows(self, batch: Batch, images: EncodedImages) -> Rows:
        """Returns the rows of the batch, ready to be read."""
        return self.backbone.embed_rows(batch, images)

    def read(self, batch: Batch, images: EncodedImages) -> tuple[Tensor, ...]:
        """Returns the L+1 hidden states [R, T, D] of all rows."""
        return self.backbone.unroll(self.embed_rows(batch, images))

    def target_states(self, batch: Batch, images: EncodedImages, unrolled: tuple[Tensor, ...]) -> TargetStates:
        """Returns the states of the `[SEG]` targets of given answers, grouped by image."""
        rows = batch.seg_positions[:, 0] // batch.input_ids.shape[1]  # [S]
        return TargetStates(
            unrolled=unrolled,
            seg_positions=batch.seg_positions,
            cell_positions=batch.cell_positions[rows],
            image=batch.seg_image,
            images=images,
            groups=list(range(len(batch.masks))),
            counts=[len(masks) for masks in batch.masks],
            geometries=batch.backbone_images.geometries,
            sizes=batch.original_sizes,
        )

    # --- masks

    def decode(self, batch: Batch, states: TargetStates, prompt: Prompt) -> DecodedTargets:
        """Returns low-resolution masks of all targets."""
        features = self.decoder_features(batch, states.images)
        return self.decoder.decode(features, states.image, prompt.sparse, prompt.dense)

    def masks(self, batch: Batch, states: TargetStates, prompt: Prompt) -> tuple[list[Tensor], list[Tensor] | None]:
        """Returns mask logits float32 [m, H, W] at original size, and object scores [m] where the decoder has them, for
        each group of targets."""
        decoded = self.decode(batch, states, prompt)
        scores = decoded.object_scores
        return self.upscale(batch, states, decoded.low_res), None if scores is None else list(
            scores.split(states.counts)
        )

    def upscale(self, batch: Batch, states: TargetStates, low_res: list[Tensor]) -> list[Tensor]:
        """Returns mask logits float32 [m, H, W] at original size, for each group of targets."""
        groups = self.decoder.fuse(low_res).split(states.counts)
        return [self._at_original_size(batch, *group) for group in zip(states.groups, groups, strict=True)]

    def _at_original_size(self, batch: Batch, image: int, logits: Tensor) -> Tensor:
        """Returns logits float32 [m, H, W] of targets of an image, or of images of its size, from [m, h, w]."""
        images = batch.backbone_images if self._decodes_from_backbone else batch.decoder_images
        return self.decoder.upscale(logits, images.geometries[image], batch.original_sizes[image])

    def _mask_losses(self, batch: Batch, counts: list[int], low_res: list[Tensor]) -> Tensor:
        """Returns BCE and Dice of every mask, [2, S]; counts: masks of each image."""
        logits = self.decoder.fuse(low_res).split(counts)
        return losses_of_masks(partial(self._at_original_size, batch), logits, batch.masks, batch.ignore)

    def _decisions(self, batch: Batch, written: Tensor) -> list[list[bool]]:
        """For every image and target, in written order: would the model have written `[SEG]` there?

        written int64 [S + J]: what it would have written at the first tokens of the `[SEG]`, then of the `[REJ]`.
        Where `[SEG]` is given anything else counts as a rejection, where `[REJ]` is given anything else as acceptance
        (the reference's rule).
        """
        tokens = written.tolist()
        at_seg, at_rej = iter(tokens[: len(batch.seg_positions)]), iter(tokens[len(batch.seg_positions) :])
        seg, rej = self.config.seg_token_ids, self.config.rej_token_ids
        return [
            [next(at_seg) == seg[0] if is_seg else next(at_rej) != rej[0] for is_seg in kinds]
            for kinds in batch.target_is_seg
        ]


def _with_stand_in(batch: Batch, tokens_per_target: int) -> Batch:
    """The batch with one empty target at the first token of the first row."""
    stand_in = copy.copy(batch)
    zeros = torch.zeros(1, dtype=torch.int64, device=batch.input_ids.device)
    stand_in.seg_positions = zeros.unsqueeze(1).expand(1, tokens_per_target)
    stand_in.seg_image = zeros
    mask = torch.zeros((1, *batch.original_sizes[0]), dtype=torch.bool, device=zeros.device)
    stand_in.masks = [mask, *batch.masks[1:]]
    return stand_in


def _joined(parts: list[Tensor]) -> Tensor:
    """Returns the concatenation; the part itself, uncopied, where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _all_visible(visible: list[Tensor | None], tokens: list[Tensor]) -> list[Tensor]:
    """Returns `visible` bool [n · tokens] of each group, True throughout where it is None."""
    return [
        torch.ones(len(of_group), dtype=torch.bool, device=of_group.device) if seen is None else seen
        for seen, of_group in zip(visible, tokens, strict=True)
    ]
