"""Bases whose images are shown in tiles, as their publishers write them to disk, small enough for tests."""

import json
from pathlib import Path

import torch
import transformers

from dataloaders.batching.tokenization import GroundingTokenizer
from tests.tiny import tokenizer_bytes
from tests.tiny_bases import SPECIAL, spread, write_bpe_tokenizer

SIDE = 28  # of a tile
CANVASES = [[SIDE * rows, SIDE * columns] for rows, columns in [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (3, 3)]]
TEXT = {
    "model_type": "qwen2",
    "vocab_size": 448,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 7,
}
IMAGE_TOKENS = ("<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>")


def write_tiled(directory: Path, kind: str, *, seed: int = 0, **changes):
    """A base of "llava_onevision", "internvl3" or "llava_next" with random weights; gives the model of transformers.

    changes: of its configuration; `text_config` and `vision_config` are dictionaries of changes, too.
    """
    text = TEXT | changes.pop("text_config", {})
    vision = VISION | changes.pop("vision_config", {})
    torch.manual_seed(seed)
    model = {"llava_onevision": _onevision, "internvl3": _internvl, "llava_next": _llava_next}[kind](
        directory, text, vision, changes
    ).eval()
    spread(model, seed)
    model.save_pretrained(directory)
    return model


def _onevision(directory: Path, text: dict, vision: dict, changes: dict):
    tokenizer = write_bpe_tokenizer(directory, SPECIAL + IMAGE_TOKENS)
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False} | vision
    side = vision["image_size"]
    canvases = [[height // SIDE * side, width // SIDE * side] for height, width in CANVASES]
    values = {"image_grid_pinpoints": canvases, "vision_aspect_ratio": "anyres_max_4"} | changes
    config = transformers.LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.token_to_id("<image>"),
        video_token_index=tokenizer.token_to_id("<video>"),
        **values,
    )
    images = {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": canvases}
    _write_images(directory, images, side, 0.5)
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def _internvl(directory: Path, text: dict, vision: dict, changes: dict):
    tokenizer = write_bpe_tokenizer(directory, SPECIAL + IMAGE_TOKENS)
    sides = {name: [vision[name]] * 2 for name in ("image_size", "patch_size")}
    config = transformers.InternVLConfig(
        text_config=text,
        vision_config=vision | sides,
        image_token_id=tokenizer.token_to_id("<IMG_CONTEXT>"),
        **{"tie_word_embeddings": False} | changes,
    )
    images = {"image_processor_type": "GotOcr2ImageProcessorFast", "min_patches": 1, "max_patches": 6}
    _write_images(directory, images, vision["image_size"], 0.4)
    return transformers.InternVLForConditionalGeneration(config)


def _llava_next(directory: Path, text: dict, vision: dict, changes: dict):
    """LLaVA 1.6 in the layout of transformers, whose tokenizer is LLaMA's."""
    rows = len(GroundingTokenizer(tokenizer_bytes()))
    GroundingTokenizer(tokenizer_bytes(), {"<image>": rows, "<pad>": rows + 1}).save(directory)
    text |= {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    values = {"image_grid_pinpoints": CANVASES} | changes
    config = transformers.LlavaNextConfig(
        text_config=text,
        vision_config={"model_type": "clip_vision_model", "projection_dim": 16} | vision,
        image_token_index=rows,
        **values,
    )
    return transformers.LlavaNextForConditionalGeneration(config)


def _write_images(directory: Path, settings: dict, side: int, statistic: float) -> None:
    values = {"size": {"height": side, "width": side}, "image_mean": [statistic] * 3, "image_std": [statistic / 2] * 3}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings | values))
