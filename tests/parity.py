"""Reading a parity case: the reference's weights, inputs and results (see tests/reference/README.md)."""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from checkpoints.names import load_reference_state_dict
from dataloaders.batching.batch import PADDING_BRANCH, Batch, Geometry, PreparedImages, place_images
from model.config import GroundingConfig
from model.decoders.published import DECODER_LAYER_NORM_EPS
from model.grounding import GroundingModel
from model.images import centre_window
from model.outputs import LossWeights

IMAGE_TOKEN = -200
IGNORE = -100


@dataclass
class ParityCase:
    """One recorded run: `meta` as in `meta.json`, `tensors` as in `tensors.safetensors`."""

    meta: dict
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, directory: Path) -> "ParityCase":
        return cls(json.loads((directory / "meta.json").read_text()), load_file(directory / "tensors.safetensors"))

    def model(self) -> GroundingModel:
        """The model of the case with the reference's weights, in training mode, encoders frozen."""
        model = GroundingModel(self.config())
        seed = self.meta["fill_seed"]
        weights = {name: reference_weight(seed, name, shape) for name, shape in self.meta["state_dict"].items()}
        load_reference_state_dict(model, weights)
        weights = self.meta["loss_weights"]
        model.loss_weights = LossWeights(ce=weights["ce"], bce=weights["bce"], dice=weights["dice"])
        for name, parameter in model.named_parameters():
            frozen = name.startswith(("vision_tower.", "sam.vision_encoder.")) or "positional_embedding" in name
            parameter.requires_grad_(not frozen)
        return model.train()

    def config(self) -> GroundingConfig:
        meta = self.meta
        arguments = dict(meta["model_args"])
        seg = arguments.pop("seg_token_idx", meta["seg_token_id"])
        for handled in ("num_layers", "strategy"):
            arguments.pop(handled, None)
        rej = meta["rej_token_id"]
        seg_ids = seg if isinstance(seg, list) else [seg]
        sam = meta["sam"]
        embedding = meta["image_size"] // 16
        width = sam["encoder_embed_dim"]
        return GroundingConfig(
            text_config=dict(meta["llm"], rms_norm_eps=meta["llm"].get("rms_norm_eps", 1e-5)),
            vision_config=dict(meta["clip"], hidden_act="quick_gelu"),
            sam_config={
                "vision_config": {
                    "hidden_size": width,
                    "num_hidden_layers": sam["encoder_depth"],
                    "num_attention_heads": sam["encoder_num_heads"],
                    "global_attn_indexes": sam["encoder_global_attn_indexes"],
                    "mlp_dim": 4 * width,
                    "image_size": meta["image_size"],
                    "layer_norm_eps": 1e-6,
                },
                "mask_decoder_config": {"layer_norm_eps": DECODER_LAYER_NORM_EPS},
                "prompt_encoder_config": {"image_size": meta["image_size"], "image_embedding_size": embedding},
            },
            system=meta["system"],
            seg_token_ids=seg_ids,
            rej_token_ids=rej if isinstance(rej, list) else [rej] * len(seg_ids),
            im_start_id=meta["im_start_id"],
            im_end_id=meta["im_end_id"],
            map_geometry="reference",
            estimator="sample",
            reward="batch",
            **arguments,
        )

    def batch(self, model: GroundingModel, images: int | None = None) -> Batch:
        """The inputs in the plain layout; `images` keeps only the first so many images and their conversations."""
        tensors, meta = self.tensors, self.meta
        offset = tensors["offset"].tolist()
        images = len(offset) - 1 if images is None else images
        rows = offset[images]
        grid = (model.config.image_grid,) * 2
        tokens = grid[0] * grid[1]
        shapes = meta["sam_shapes"][:images]
        layout = _expand(
            tensors["input_ids"][:rows], tensors["labels"][:rows], tensors["attention_mask"][:rows], tokens
        )
        image_of_row = [i for i in range(images) for _ in range(offset[i], offset[i + 1])]
        seg, seg_rows = _targets(layout["ids"], model.config.seg_token_ids)
        rej, rej_rows = _targets(layout["ids"], model.config.rej_token_ids)
        is_seg = [[] for _ in range(images)]
        order = [(int(p[0]), True) for p in seg] + [(int(p[0]), False) for p in rej]
        for position, kind in sorted(order):
            is_seg[image_of_row[position // layout["ids"].shape[1]]].append(kind)
        labelled = layout["labels"][:, 1:] != IGNORE
        row, column = labelled.nonzero(as_tuple=True)
        masks = [tensors[f"gt_masks.{i}"] for i in range(images)]
        scale = meta["image_size"] // tensors["images_lowres"].shape[-1]
        sam_images = tensors["images_lowres"][:images].repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        for picture, shape in zip(sam_images, shapes, strict=True):
            picture[:, shape["resized"][0] :] = 0
            picture[:, :, shape["resized"][1] :] = 0
        sizes = [tuple(shape["original"]) for shape in shapes]
        sam_geometries = [
            Geometry(tuple(shape["resized"]), (0, 0, max(size), max(size)), True, (scale, scale))
            for shape, size in zip(shapes, sizes, strict=True)
        ]
        padded = model.config.pad_train_clip_images
        clip_geometries = [
            Geometry(tuple(part), (0, 0, max(size), max(size)) if padded else centre_window(size), padded, grid, tokens)
            for part, size in zip(meta["clip_resized"], sizes)
        ]
        clip_images = PreparedImages.of(list(zip(tensors["images_clip"], clip_geometries)))
        image_index = torch.tensor(image_of_row)
        return Batch(
            input_ids=layout["ids"],
            branches=torch.where(layout["mask"], 0, PADDING_BRANCH),
            position_ids=torch.arange(layout["ids"].shape[1]).expand_as(layout["ids"]),
            image_index=image_index,
            **place_images(clip_images, layout["start"].tolist(), image_of_row, layout["ids"].shape[1]),
            label_positions=row * layout["ids"].shape[1] + column,
            label_ids=layout["labels"][row, column + 1],
            seg_positions=seg,
            seg_image=image_index[seg_rows],
            rej_positions=rej,
            rej_image=image_index[rej_rows],
            target_is_seg=is_seg,
            backbone_images=clip_images,
            decoder_images=PreparedImages.of(list(zip(sam_images, sam_geometries, strict=True))),
            original_sizes=sizes,
            masks=[each[each.flatten(1).any(dim=1)] for each in masks],
            ignore=[None] * images,
            sources=[f"parity image {i}" for i in range(images)],
        )


def reference_weight(seed: int, name: str, shape: list[int]) -> Tensor:
    """The float32 tensor that the reference run had under `name`: a function of seed, name and shape."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    values = generator.standard_normal(tuple(shape), dtype=np.float32)
    if len(shape) >= 2:
        values = values * np.float32(1.0 / math.sqrt(max(int(np.prod(shape[1:])), 1)))
    elif name.endswith("weight"):
        values = 1.0 + 0.05 * values
    else:
        values = 0.02 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _expand(input_ids: Tensor, labels: Tensor, mask: Tensor, tokens: int) -> dict[str, Tensor]:
    """Replace the single image placeholder of every row by `tokens` of them."""
    rows, length = input_ids.shape
    start = (input_ids == IMAGE_TOKEN).int().argmax(dim=1)
    source = torch.arange(length + tokens - 1).expand(rows, -1)
    inside = (source >= start[:, None]) & (source < start[:, None] + tokens)
    source = torch.where(source < start[:, None] + tokens, source.clamp(max=length - 1), source - tokens + 1)
    source = torch.where(inside, start[:, None], source).clamp(max=length - 1)
    ids = torch.where(inside, IMAGE_TOKEN, input_ids.gather(1, source))
    return {
        "ids": ids,
        "labels": torch.where(inside, IGNORE, labels.gather(1, source)),
        "mask": inside | mask.gather(1, source),
        "start": start,
    }


def _targets(ids: Tensor, token_ids: list[int]) -> tuple[Tensor, Tensor]:
    """Flat positions [S, n] that predict the tokens of each target, and the row of each."""
    known = torch.tensor(token_ids)
    flat = torch.isin(ids, known).flatten().nonzero().squeeze(1).view(-1, len(token_ids)) - 1
    return flat, flat[:, 0] // ids.shape[1]
