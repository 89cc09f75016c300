"""The shared skeleton of all systems: images and text -> hidden states -> prompts -> masks and losses.

Legend: I images, R rows, T tokens, P image tokens, S targets, n tokens per target, D width, C prompt width,
H W original size of an image.
"""

import copy
from functools import partial

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaModel, PreTrainedModel, SamModel

from dataloaders.batching.batch import Batch
from groundscore.errors import UserError
from model import encoding
from model.backbones.llava import (
    ATTENTIONS,
    ImageTokens,
    build_projector,
    flash_attention_rows,
    row_attention,
    row_embeddings,
    separate_projector,
    unroll,
)
from model.batched_losses import losses_of_masks
from model.config import GroundingConfig
from model.decoders.sam_attention import use_rowwise_attention
from model.decoders.target_decoder import use_target_decoder
from model.feature_cache import EncoderFeatures, FeatureCache
from model.generation import generate_answers
from model.losses import TokenHead
from model.outputs import Answer, ForcedMasks, GroundingOutput, LossParts, LossWeights, Segmentation
from model.states import TargetStates
from model.systems import build_system
from model.systems.base import Prompt


class GroundingModel(PreTrainedModel):
    """CLIP, projector, LLaMA and SAM with the projection of `[SEG]` states to prompts, and what the system adds.

    `loss_weights` weighs the terms of the training loss; the training script sets it.
    """

    config_class = GroundingConfig
    base_model_prefix = "grounding"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["LlamaDecoderLayer", "CLIPEncoderLayer", "SamVisionLayer"]

    def __init__(self, config: GroundingConfig):
        super().__init__(config)
        vision_config = copy.deepcopy(config.vision_config)
        vision_config.image_size = config.clip_image_size
        width = config.text_config.hidden_size
        self.vision_tower = CLIPVisionModel(vision_config)
        if config.separate_mm_projector:
            hidden = width * config.mm_projector_hidden_dim
            self.mm_projector = separate_projector(vision_config.hidden_size, hidden, width)
            self.out_mm_projector = separate_projector(vision_config.hidden_size, hidden, config.clip_feature_width)
        else:
            self.mm_projector = build_projector(config.mm_projector_type, vision_config.hidden_size, width)
        self.language_model = LlamaModel(copy.deepcopy(config.text_config))
        self.lm_head = TokenHead(width, config.text_config.vocab_size, bias=False)
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.out_dim), nn.Dropout(0.0)
        )
        self.system = build_system(config)
        if self.system.uses_sam:
            self.sam = SamModel(copy.deepcopy(config.sam_config))
            use_rowwise_attention(self.sam.vision_encoder)
            use_target_decoder(self.sam)
        modules = self.system.modules()
        self.system_modules = tuple(modules)
        for name, module in modules.items():
            self.add_module(name, module)
        self.loss_weights = LossWeights()
        self.feature_caches: dict[str, EncoderFeatures] = {}  # by encoder, of those whose features are cached
        self.prompts_at_a_time: int | None = None  # that memory sufficed for, once it has not for more
        self.post_init()

    @property
    def added_modules(self) -> tuple[str, ...]:
        """Names of the modules that a base model lacks."""
        separate = ("mm_projector", "out_mm_projector") if self.config.separate_mm_projector else ()
        return ("text_hidden_fcs", *separate, *self.system_modules)

    def push_to_hub(self, repo_id: str, *, processor=None, **options) -> str:
        """Upload weights, configuration, processor and model card; see `checkpoints/saving.py`."""
        from checkpoints.saving import push_to_hub

        return push_to_hub(self, processor, repo_id, **options)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.language_model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def forward(self, batch: Batch, layer_choice: Tensor | None = None) -> GroundingOutput:
        """Losses of one micro-batch with given answers; `layer_choice` int64 [S] replaces the policy's sampling."""
        images = self.encode_images(batch)
        unrolled, places = self.read(batch, images)
        ce = self.lm_head(unrolled[-1].flatten(0, 1)[batch.label_positions], batch.label_ids)
        ce_loss = self.loss_weights.ce * ce.sum() / max(len(ce), 1)  # zero, with a graph, where nothing is labelled

        # Without a target a stand-in takes part with weight zero: every parameter then has a gradient on every
        # process, and collectives match.
        present = batch.seg_positions.shape[0] > 0
        if not present:
            batch = _with_stand_in(batch, self.config.tokens_per_target)
        states = self.target_states(batch, images, unrolled, places)
        prompt = self.system.prompt(self, states, batch, "sample", layer_choice)
        low_res = self.system.decode(self, batch, states, prompt)

        own = self.system.own_losses(self, prompt, states, batch, present)
        bce, dice = self._mask_losses(batch, states, low_res)
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
        return [
            Segmentation(mask_logits=logits, decisions=decided, layers=chosen.tolist(), similarity_maps=each)
            for logits, decided, chosen, each in zip(forced.mask_logits, decisions, layers, maps, strict=True)
        ]

    @torch.no_grad()
    def force(self, batch: Batch, decided: Tensor, layer: str | int | None = None) -> ForcedMasks:
        """Masks for the `[SEG]` of given answers, and the tokens that the model would write at flat positions
        `decided` int64 [Q]; all results stay on the device."""
        layer = self.layer_rule(layer)
        images = self.encode_images(batch)
        unrolled, places = self.read(batch, images)
        written = self.lm_head(unrolled[-1].flatten(0, 1)[decided]).argmax(dim=-1)
        if batch.seg_positions.shape[0] == 0:
            empty = [torch.zeros((0, *size), device=written.device) for size in batch.original_sizes]
            return ForcedMasks(empty, written, layers=batch.seg_image, similarity_maps=None)
        states = self.target_states(batch, images, unrolled, places)
        prompt = self.system.prompt(self, states, batch, layer)
        return ForcedMasks(self.masks(batch, states, prompt), written, prompt.layers, prompt.maps)

    @torch.no_grad()
    def generate(self, batch: Batch, max_new_tokens: int = 128, layer=None, on_token=None) -> list[Answer]:
        """Write an answer to every prompt, a row or a branch of one, and decode its masks; see `generation.py`."""
        return generate_answers(self, batch, max_new_tokens, self.layer_rule(layer), on_token)

    def layer_rule(self, layer: str | int | None) -> str | int:
        """The layer rule to use outside training, checked: None is the checkpoint's own."""
        if layer is None:
            return self.system.default_layer()
        if layer in ("last", "greedy", "mixture", "sample"):
            if layer != "last" and not self.system.uses_policy:
                raise UserError(f'layer "{layer}": {self.config.system} has no policy; use "last"')
            if layer != "last" and self.config.mode == 1:
                raise UserError(f'layer "{layer}": mode 1 trains no policy; use "last" or an index')
            return layer
        last = self.config.num_layers - 1
        if not str(layer).lstrip("-").isdecimal():
            raise UserError(f'layer "{layer}": use last, greedy, mixture, sample or one of 0..{last}')
        index = int(layer)
        if not 0 <= index <= last:
            raise UserError(f"layer {index} is outside 0..{last}")
        if not self.system.uses_policy:
            raise UserError(f"layer {index}: {self.config.system} always uses the last layer")
        return index

    def encode_images(self, batch: Batch) -> ImageTokens:
        """CLIP, unless its states are cached, and the projector, once per image of the batch."""
        return encoding.image_tokens_of(self, batch)

    def sam_embeddings(self, batch: Batch) -> Tensor:
        """SAM's image embeddings [I, C, G, G], from the encoder or from the cache."""
        return encoding.sam_embeddings(self, batch)

    def cache_features(self, cache: FeatureCache) -> list[str]:
        """Take the features of the encoders that are frozen now from `cache`, and put them there; their names."""
        self.feature_caches = encoding.caches_of_frozen_encoders(self, cache)
        return list(self.feature_caches)

    def embed_rows(self, batch: Batch, images: ImageTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [R, T, D] with the image tokens in, who sees whom [R, 1, T, T], their places [R, P].

        With flash-attn, which knows no such masks, the second is bool [R, T], False for padding.
        """
        tokens = images.tokens[batch.image_index]
        places = batch.image_start[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        visible = None if images.visible is None else images.visible[batch.image_index]
        embeddings = row_embeddings(self.language_model.embed_tokens, batch.input_ids, places, tokens)
        attention = self.language_model.config._attn_implementation
        if attention not in ATTENTIONS:
            raise UserError(
                f'attention "{attention}" does not support attention masks of packed rows; use '
                f"{' or '.join(ATTENTIONS)}"
            )
        if attention == "flash_attention_2":
            return embeddings, flash_attention_rows(batch.branches, visible, packed=batch.packed), places
        return embeddings, row_attention(batch.branches, places, visible), places

    def read(self, batch: Batch, images: ImageTokens) -> tuple[tuple[Tensor, ...], Tensor]:
        """The L+1 hidden states [R, T, D] of all rows, and the places [R, P] of their image tokens."""
        embeddings, attention, places = self.embed_rows(batch, images)
        return unroll(self.language_model, embeddings, attention, batch.position_ids), places

    def target_states(
        self, batch: Batch, images: ImageTokens, unrolled: tuple[Tensor, ...], places: Tensor
    ) -> TargetStates:
        """The states of the `[SEG]` targets of given answers, grouped by image."""
        length = batch.input_ids.shape[1]
        rows = batch.seg_positions[:, 0] // length
        return TargetStates(
            unrolled=unrolled,
            seg_places=batch.seg_positions,
            image_places=places[rows] + rows.unsqueeze(1) * length,
            image=batch.seg_image,
            images=images,
            groups=list(range(len(batch.masks))),
            counts=[len(masks) for masks in batch.masks],
        )

    def masks(self, batch: Batch, states: TargetStates, prompt: Prompt) -> list[Tensor]:
        """Mask logits float32 [m, H, W] at original size, for each group of targets."""
        return self.system.upscale(self, batch, states, self.system.decode(self, batch, states, prompt))

    def _mask_losses(self, batch: Batch, states: TargetStates, low_res: list[Tensor]) -> tuple[Tensor, Tensor]:
        """BCE and Dice of every mask, [S] each."""
        logits = self.system.fuse(self, low_res).split(states.counts)
        bce, dice = losses_of_masks(partial(self.system.at_original_size, batch), logits, batch.masks, batch.ignore)
        return bce, dice

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
