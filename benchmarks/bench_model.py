"""The bench model and its batches: random weights and random content, exact shapes, no file is read.

The default `BenchShape` is the yardstick of `docs/performance.md`; other shapes show how cost grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from dataloaders.batching.batch import PREFIX_BRANCH, Batch, Geometry, PreparedImages, place_images
from groundscore.errors import UserError
from model.backbones import backbone_of
from model.config import GroundingConfig
from model.grounding import GroundingModel
from model.images import fitted_size
from model.lora import add_lora
from training.trainable import set_trainable, trainable_prefixes

IMAGE_ID = -200
SEG_ID, REJ_ID = 32000, 32001


@dataclass(frozen=True)
class BenchShape:
    """The sizes of a model and of a batch that are measured.

    images of height × width pixels, or of the sizes (height, width) in turn, of which a backbone must make equally many
    tokens; each with this number of conversations; a conversation has text_tokens tokens (the image counts as one), of
    which the first common_tokens, up to and including the image, are the same for all of an image; segs `[SEG]` and
    labelled tokens with a label in each.
    layers, width, mlp, heads: of the LLM; clip_…, sam_…: of the encoders. packed: one row an image.
    backbone: llava, or one whose `text` and `vision` have more fields: of the configurations of LLM and encoder.
    """

    images: int = 2
    height: int = 480
    width_pixels: int = 640
    sizes: tuple[tuple[int, int], ...] = ()
    conversations: int = 3
    text_tokens: int = 90
    common_tokens: int = 38
    segs: int = 1
    labelled: int = 12
    layers: int = 8
    width: int = 512
    mlp: int = 1376
    heads: int = 8
    vocabulary: int = 32004
    clip_image_size: int = 336
    clip_width: int = 256
    clip_layers: int = 12
    clip_heads: int = 4
    sam_image_size: int = 1024
    sam_width: int = 128
    sam_layers: int = 4
    sam_heads: int = 4
    sam_global: tuple[int, ...] = (3,)
    packed: bool = True
    backbone: str = "llava"
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_grid(self) -> tuple[int, int]:
        """Rows and columns of the image tokens."""
        return self.image[1].grid

    @property
    def image_tokens(self) -> int:
        """Image tokens of an image."""
        return self.image[1].tokens

    @cached_property
    def image(self) -> tuple[torch.Tensor, Geometry]:
        """An image as the backbone takes it, and where it lies."""
        return self.prepared((self.height, self.width_pixels))

    def prepared(self, size: tuple[int, int]) -> tuple[torch.Tensor, Geometry]:
        """A black image of (height, width) as the backbone takes it, and where it lies."""
        config = bench_config(self)
        return backbone_of(config).preparation(config)(torch.zeros(*size, 3, dtype=torch.uint8).numpy())

    def original_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image."""
        sizes = self.sizes or ((self.height, self.width_pixels),)
        return [sizes[image % len(sizes)] for image in range(self.images)]


def _rotary(theta: float, sections: tuple[int, int, int]) -> dict[str, Any]:
    """Rotary positions in three axes; sections: pairs of a head's numbers for each."""
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": list(sections)}


CLIP_L = {"clip_width": 1024, "clip_layers": 24, "clip_heads": 16}
SAM_H = {"sam_width": 1280, "sam_layers": 32, "sam_heads": 16, "sam_global": (7, 15, 23, 31)}
SIZES = {
    "tiny": BenchShape(
        width=64,
        mlp=128,
        layers=2,
        heads=2,
        vocabulary=SEG_ID + 4,
        clip_width=32,
        clip_layers=2,
        clip_image_size=56,
        sam_image_size=256,
        sam_width=32,
        sam_layers=2,
        sam_global=(1,),
    ),
    "bench": BenchShape(),
    "7b": BenchShape(width=4096, mlp=11008, layers=32, heads=32, **CLIP_L, **SAM_H),
    "13b": BenchShape(width=5120, mlp=13824, layers=40, heads=40, **CLIP_L, **SAM_H),
    "internvl3-8b": BenchShape(
        backbone="internvl3",
        width=3584,
        mlp=18944,
        layers=28,
        heads=28,
        vocabulary=151674,
        text={"num_key_value_heads": 4},
        vision={"attention_bias": True},  # InternViT-300M, the class's own
        **SAM_H,
    ),
    "qwen2.5-vl-7b": BenchShape(
        backbone="qwen2_5_vl",
        width=3584,
        mlp=18944,
        layers=28,
        heads=28,
        vocabulary=152064,
        text={"num_key_value_heads": 4, "rope_parameters": _rotary(1e6, (16, 24, 24))},
        vision={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
        **SAM_H,
    ),
    "qwen3-vl-8b": BenchShape(
        backbone="qwen3_vl",
        width=4096,
        mlp=12288,
        layers=36,
        heads=32,
        vocabulary=151936,
        text={"num_key_value_heads": 8, "head_dim": 128, "rope_parameters": _rotary(5e6, (24, 20, 20))},
        vision={"out_hidden_size": 4096},
        **SAM_H,
    ),
}


def bench_model(
    shape: BenchShape, system: str = "UGround", *, dtype: torch.dtype = torch.float32, device: str = "cpu", **settings
) -> GroundingModel:
    """The bench model with random weights, in training mode; CLIP, the projector and SAM's encoder are frozen.

    settings: fields of `GroundingConfig` that differ from the yardstick's.
    """
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = GroundingModel(bench_config(shape, system, **settings))
    finally:
        torch.set_default_dtype(usual)
    model.train()
    set_trainable(model, trainable_prefixes(model, lora_r=0, train_mask_decoder=True))
    return model


def adapt(model: GroundingModel, *, lora_r: int, checkpointing: bool) -> GroundingModel:
    """Adds LoRA as training with the default flags does, and gradient checkpointing; returns the model.

    lora_r: rank of LoRA on the LLM's q and v projections; makes the default parts trainable. 0 changes nothing.
    """
    if lora_r:
        add_lora(model, r=lora_r, alpha=2 * lora_r, dropout=0.0, targets=["q_proj", "v_proj"])
        set_trainable(
            model,
            trainable_prefixes(model, lora_r=lora_r, train_mask_decoder=True),
        )
    if checkpointing:
        model.backbone.checkpoint_gradients()
    return model


def bench_config(shape: BenchShape, system: str = "UGround", **settings) -> GroundingConfig:
    """Configuration of the bench model; settings: fields that differ from the yardstick's."""
    grid = shape.sam_image_size // 16
    yardstick = {"mode": 3, "estimator": "sample", "baseline_type": "ema"}
    return GroundingConfig(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.width,
            "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            **shape.text,
        },
        vision_config=dict(shape.vision)
        if shape.backbone != "llava"
        else {
            "hidden_size": shape.clip_width,
            "intermediate_size": 4 * shape.clip_width,
            "num_hidden_layers": shape.clip_layers,
            "num_attention_heads": shape.clip_heads,
            "image_size": shape.clip_image_size,
            "patch_size": 14,
            "hidden_act": "quick_gelu",
        },
        backbone=shape.backbone,
        sam_config={
            "vision_config": {
                "hidden_size": shape.sam_width,
                "num_hidden_layers": shape.sam_layers,
                "num_attention_heads": shape.sam_heads,
                "global_attn_indexes": list(shape.sam_global),
                "mlp_dim": 4 * shape.sam_width,
                "image_size": shape.sam_image_size,
            },
            "prompt_encoder_config": {"image_size": shape.sam_image_size, "image_embedding_size": grid},
            "mask_decoder_config": {"layer_norm_eps": 1e-5},
        },
        system=system,
        mm_vision_select_layer=-2,
        mm_projector_type="mlp2x_gelu",
        seg_token_ids=[SEG_ID],
        rej_token_ids=[REJ_ID],
        **(yardstick | settings),
    )


def bench_batch(shape: BenchShape, seed: int = 0) -> Batch:
    """Random conversations, images and masks of the given shape, laid out as the collator lays them out."""
    generator = torch.Generator().manual_seed(seed)
    prefix_text = _words(shape, shape.common_tokens - 1, generator)
    branch_length = shape.text_tokens - shape.common_tokens
    rows: list[list[list[int]]] = []  # rows of branches
    for _ in range(shape.images):
        branches = [_branch(shape, branch_length, generator) for _ in range(shape.conversations)]
        rows += [branches] if shape.packed else [[branch] for branch in branches]
    per_row = len(rows[0])
    prefix = len(prefix_text) + shape.image_tokens
    length = prefix + per_row * branch_length
    head = [*prefix_text, *[IMAGE_ID] * shape.image_tokens]
    input_ids = torch.tensor([head + [token for branch in row for token in branch] for row in rows])
    branch_numbers = [PREFIX_BRANCH] * prefix + [n for n in range(1, per_row + 1) for _ in range(branch_length)]
    positions = _positions(shape, len(prefix_text), list(range(branch_length)) * per_row)
    labels, label_ids, seg = [], [], []
    for number, row in enumerate(rows):
        for branch, tokens in enumerate(row):
            start = number * length + prefix + branch * branch_length
            labelled = range(branch_length - shape.labelled, branch_length)
            labels += [start + index - 1 for index in labelled]
            label_ids += [tokens[index] for index in labelled]
            seg += [start + index - 1 for index, token in enumerate(tokens) if token == SEG_ID]
    rows_per_image = len(rows) // shape.images
    targets = shape.conversations * shape.segs
    masks, images = _masks(shape, targets, generator), _images(shape, generator)
    return Batch(
        input_ids=input_ids,
        branches=torch.tensor(branch_numbers).expand(len(rows), -1).contiguous(),
        position_ids=_in_rows(positions, len(rows)),
        image_index=torch.arange(len(rows)) // rows_per_image,
        **place_images(
            images["backbone_images"],
            [len(prefix_text)] * len(rows),
            [row // rows_per_image for row in range(len(rows))],
            length,
        ),
        label_positions=torch.tensor(labels),
        label_ids=torch.tensor(label_ids),
        seg_positions=torch.tensor(seg).view(-1, 1),
        seg_image=torch.arange(shape.images * targets) // targets,
        rej_positions=torch.zeros((0, 1), dtype=torch.int64),
        rej_image=torch.zeros(0, dtype=torch.int64),
        target_is_seg=[[True] * targets] * shape.images,
        masks=masks,
        ignore=[None] * shape.images,
        sources=[f"bench/{number}" for number in range(shape.images)],
        **images,
    )


def bench_prompt(shape: BenchShape, tokens: int, seed: int = 0, rows: int = 1) -> Batch:
    """One image and `rows` copies of a question of `tokens` text tokens (the image counts as one)."""
    generator = torch.Generator().manual_seed(seed)
    ids = _words(shape, tokens - 1, generator)
    before = min(shape.common_tokens, tokens) - 1
    row = torch.tensor([[*ids[:before], *[IMAGE_ID] * shape.image_tokens, *ids[before:]]]).expand(rows, -1)
    branches = torch.full_like(row, PREFIX_BRANCH + 1)
    branches[:, : before + shape.image_tokens] = PREFIX_BRANCH
    none = torch.zeros(0, dtype=torch.int64)
    images = _images(replace(shape, images=1), generator)
    return Batch(
        input_ids=row,
        branches=branches,
        position_ids=_in_rows(_positions(shape, before, list(range(len(ids) - before))), rows),
        image_index=torch.zeros(rows, dtype=torch.int64),
        **place_images(images["backbone_images"], [before] * rows, [0] * rows, row.shape[1]),
        label_positions=none,
        label_ids=none,
        seg_positions=none.view(0, 1),
        seg_image=none,
        rej_positions=none.view(0, 1),
        rej_image=none,
        target_is_seg=[[]],
        masks=[torch.zeros((0, shape.height, shape.width_pixels), dtype=torch.bool)],
        ignore=[None],
        sources=["bench/0"],
        **images,
    )


def _positions(shape: BenchShape, before: int, after: list[int]) -> torch.Tensor:
    """Position ids [axes, T] of a row: `before` tokens, the image, and tokens so far after it."""
    geometry = shape.image[1]
    of_image, following = geometry.token_positions(before)
    parts = (torch.arange(before), of_image, following + torch.tensor(after, dtype=torch.int64))
    return torch.cat([part.expand(geometry.axes, -1) for part in parts], dim=1)


def _in_rows(positions: torch.Tensor, rows: int) -> torch.Tensor:
    """[axes, T] → [axes, R, T], or [R, T] where there is one axis."""
    repeated = positions.unsqueeze(1).expand(-1, rows, -1).contiguous()
    return repeated.squeeze(0) if len(positions) == 1 else repeated


def _words(shape: BenchShape, count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(3, min(shape.vocabulary, SEG_ID), (count,), generator=generator).tolist()


def _branch(shape: BenchShape, length: int, generator: torch.Generator) -> list[int]:
    """A question and an answer whose labelled end holds the `[SEG]`, each with the token that it is read from."""
    if shape.segs >= shape.labelled:
        raise UserError(f"{shape.segs} [SEG] do not fit into an answer of {shape.labelled} labelled tokens")
    tokens = _words(shape, length, generator)
    for number in range(shape.segs):
        tokens[length - 2 - number] = SEG_ID
    return tokens


def _masks(shape: BenchShape, targets: int, generator: torch.Generator) -> list[torch.Tensor]:
    """A random box for every target."""
    masks = []
    for height, width in shape.original_sizes():
        mask = torch.zeros((targets, height, width), dtype=torch.bool)
        for one in mask:
            top = int(torch.randint(0, height // 2, (), generator=generator))
            left = int(torch.randint(0, width // 2, (), generator=generator))
            one[top : top + height // 3, left : left + width // 3] = True
        masks.append(mask)
    return masks


def _images(shape: BenchShape, generator: torch.Generator) -> dict[str, object]:
    """The fields of a `Batch` that hold images: random ones, padded for SAM and as the backbone takes them."""
    side, of_backbone, of_decoder = shape.sam_image_size, [], []
    for size in shape.original_sizes():
        part, window = fitted_size(*size, side), (0, 0, max(size), max(size))
        square = torch.zeros((3, side, side), dtype=torch.uint8)
        square[:, : part[0], : part[1]] = torch.randint(0, 256, (3, *part), dtype=torch.uint8, generator=generator)
        of_decoder.append((square, Geometry(part, window, True, (side // 16,) * 2)))
        pixels, geometry = shape.prepared(size)
        of_backbone.append((torch.randint(0, 256, pixels.shape, dtype=torch.uint8, generator=generator), geometry))
    return {
        "backbone_images": PreparedImages.of(of_backbone),
        "decoder_images": PreparedImages.of(of_decoder),
        "original_sizes": shape.original_sizes(),
    }
