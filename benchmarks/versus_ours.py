"""Our side of `benchmarks.versus`: the bench model, exported for the reference under its names.

python -m benchmarks.versus_ours EXPORTED SETTINGS      writes the export, then answers like the reference's side
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.bench_model import IMAGE_ID, REJ_ID, SEG_ID, BenchShape, bench_batch, bench_model, bench_prompt
from benchmarks.versus_reference import serve
from checkpoints.names import reference_state_dict, to_reference
from dataloaders.batching.batch import PADDING_BRANCH, PREFIX_BRANCH, Batch
from model.grounding import GroundingModel
from model.images import normalize_cropped, normalize_padded
from model.lora import add_lora
from model.outputs import LossWeights
from training.trainable import set_trainable, trainable_prefixes

LORA_TARGETS = ["q_proj", "v_proj"]
IGNORE = -100
NO_PADDING = 0


def main(exported: str, settings: str) -> None:
    """Builds the model, writes the export and serves the works; settings: a `versus.Comparison` as JSON."""
    given = json.loads(settings)
    torch.set_num_threads(given["threads"])
    shape = replace(BenchShape(), **given["shape"])
    model, lora = build(shape, given["lora_r"], given["lora_dropout"])
    batches = {
        "train": bench_batch(shape),
        "evaluate": bench_batch(replace(shape, images=1)),
        "generate": bench_prompt(shape, given["prompt_tokens"]),
    }
    export(Path(exported), model, shape, batches, lora, given["threads"])
    torch.manual_seed(1)

    def train(request: dict[str, Any]) -> None:
        model.train()
        model.zero_grad()
        model(batches["train"]).loss.backward()

    def choices(request: dict[str, Any]) -> list[int]:
        return [target % (shape.layers + 1) for target in range(len(batches["train"].seg_image))]

    def losses(request: dict[str, Any]) -> dict[str, float]:
        model.train()
        with torch.no_grad():
            found = model(batches["train"], layer_choice=torch.tensor(request["layers"])).losses
        return {name: float(value) for name, value in found.items()}

    def evaluate(request: dict[str, Any]) -> None:
        model.eval()
        model.segment(batches["evaluate"])

    def generate(request: dict[str, Any]) -> None:
        model.eval()
        model.config.text_config.eos_token_id = -1  # never written: every run writes all the tokens
        model.generate(batches["generate"], max_new_tokens=request["tokens"])

    serve({"choices": choices, "losses": losses, "train": train, "evaluate": evaluate, "generate": generate})


def build(shape: BenchShape, lora_r: int, lora_dropout: float) -> tuple[GroundingModel, dict[str, Any] | None]:
    """The bench model where its forms and the reference's are the same, and what peft was told."""
    model = bench_model(shape, reward="batch", map_geometry="reference", eval_legacy=True)
    model.loss_weights = LossWeights(bce=2.0, dice=4.0)  # of the reference's recipes
    if not lora_r:
        return model, None
    lora = {"r": lora_r, "lora_alpha": 2 * lora_r, "lora_dropout": lora_dropout, "target_modules": LORA_TARGETS}
    add_lora(model, r=lora_r, alpha=2 * lora_r, dropout=lora_dropout, targets=LORA_TARGETS)
    set_trainable(model, trainable_prefixes(model, lora_r=lora_r, train_mask_decoder=True))
    names = [f"model.layers.{layer}.self_attn.{target}" for layer in range(shape.layers) for target in LORA_TARGETS]
    return model, {**lora, "target_modules": names}


def export(
    directory: Path,
    model: GroundingModel,
    shape: BenchShape,
    batches: dict[str, Batch],
    lora: dict[str, Any] | None,
    threads: int,
) -> None:
    """Writes what the reference's side builds its model and its batches from."""
    weights = {
        name.replace(".base_layer", ""): tensor.contiguous()
        for name, tensor in reference_state_dict(model).items()
        if ".lora_" not in name
    }
    _save(weights, directory / "weights.safetensors")
    tower = "model.vision_tower.vision_tower."
    clip = {name.removeprefix(tower): tensor for name, tensor in weights.items() if name.startswith(tower)}
    (directory / "clip").mkdir()
    _save(clip, directory / "clip" / "model.safetensors")
    config = {**model.vision_tower.config.to_dict(), "architectures": ["CLIPVisionModel"]}
    (directory / "clip" / "config.json").write_text(json.dumps(config, default=str))
    (directory / "clip" / "preprocessor_config.json").write_text(json.dumps({"feature_extractor_type": "CLIP"}))
    for name, batch in batches.items():
        tensors, sizes = reference_batch(batch)
        _save(tensors, directory / f"{name}.safetensors")
        (directory / f"{name}.json").write_text(json.dumps(sizes))
    trained = [to_reference(name) for name, parameter in model.named_parameters() if parameter.requires_grad]
    settings = settings_of(model, shape) | {"lora": lora, "threads": threads}
    settings["trained"] = [name for name in trained if name is not None and ".lora_" not in name]
    (directory / "settings.json").write_text(json.dumps(settings))


def settings_of(model: GroundingModel, shape: BenchShape) -> dict[str, Any]:
    """The reference's configuration of the LLM and of SAM, and the arguments of its model."""
    text, weights = model.config.text_config, model.loss_weights
    copied = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "bos_token_id", "eos_token_id", "pad_token_id", "rms_norm_eps")  # fmt: skip
    return {
        "llm": {
            **{name: getattr(text, name) for name in copied},
            "max_position_embeddings": 2048,
            "mm_hidden_size": shape.clip_width,
            "mm_projector_type": model.config.mm_projector_type,
            "mm_vision_select_layer": model.config.mm_vision_select_layer,
        },
        "sam": {
            "encoder_embed_dim": shape.sam_width,
            "encoder_depth": shape.sam_layers,
            "encoder_num_heads": shape.sam_heads,
            "encoder_global_attn_indexes": list(shape.sam_global),
        },
        "arguments": {
            "train_mask_decoder": True,
            "out_dim": model.config.out_dim,
            "seg_token_idx": SEG_ID,
            "rej_token_idx": REJ_ID,
            "ce_loss_weight": weights.ce,
            "bce_loss_weight": weights.bce,
            "dice_loss_weight": weights.dice,
            "num_layers": model.config.num_layers,
            "mode": model.config.mode,
            "baseline_type": model.config.baseline_type,
            "eval_legacy": model.config.eval_legacy,
        },
    }


def reference_batch(batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A batch as the reference takes it: a row for every conversation with one token in place of the image, images
    normalised; and the sizes of the prepared and the original images."""
    labels = torch.full_like(batch.input_ids, IGNORE).flatten()
    labels[batch.label_positions + 1] = batch.label_ids
    rows, offset = [], [0]
    of_image = batch.image_index.tolist()
    for image in range(len(batch.masks)):
        for row in (number for number, shown in enumerate(of_image) if shown == image):
            rows += _conversations(batch.input_ids[row], labels.view_as(batch.input_ids)[row], batch.branches[row])
        offset.append(len(rows))
    longest = max(len(ids) for ids, _ in rows)
    (seen,), (squares,) = batch.backbone_images.groups, batch.decoder_images.groups
    tensors = {
        "input_ids": torch.stack([_padded(ids, longest, NO_PADDING) for ids, _ in rows]),
        "labels": torch.stack([_padded(of_row, longest, IGNORE) for _, of_row in rows]),
        "attention_masks": torch.stack([_padded(torch.ones_like(ids), longest, 0) for ids, _ in rows]).bool(),
        "offset": torch.tensor(offset),
        "images_clip": normalize_cropped(seen.pixels, torch.float32),
        "images": normalize_padded(squares.pixels, squares.sizes, torch.float32),
        **{f"masks.{image}": masks.float() for image, masks in enumerate(batch.masks)},
    }
    prepared = zip(batch.decoder_images.geometries, batch.original_sizes, strict=True)
    sizes = {"sam": [(geometry.size, size) for geometry, size in prepared], "clip": seen.sizes}
    return tensors, sizes


def _conversations(ids: Tensor, labels: Tensor, branches: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Token ids and labels of every conversation of a row, each with the prefix before it."""
    image = ids == IMAGE_ID
    kept = ~(image & image.roll(1)) & (branches != PADDING_BRANCH)  # of the image its first token
    found = []
    for branch in range(PREFIX_BRANCH + 1, int(branches.max()) + 1):
        mine = kept & ((branches == PREFIX_BRANCH) | (branches == branch))
        found.append((ids[mine], labels[mine]))
    return found


def _padded(values: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=value)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


if __name__ == "__main__":
    main(*sys.argv[1:])
