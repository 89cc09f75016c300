"""Bases of the backbones other than LLaVA 1.5, as their publishers write them to disk, small enough for tests.

The model is that of transformers with random weights, which is also what results are compared with.
"""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.tiny import SENTENCES, tiny_config

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
# How Qwen's tokenizers cut text before byte-pair encoding.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_bpe_tokenizer(directory: Path, special: tuple[str, ...] = SPECIAL) -> Tokenizer:
    """A byte-level BPE of a few sentences with Qwen's special tokens, as transformers saves one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES * 20, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(list(special))
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


def qwen_config(kind: str, tokenizer: Tokenizer, *, rows: int = 448, **changes):
    """The configuration of a tiny Qwen-VL. changes: of `text_config` and `vision_config`, as dictionaries."""
    text = {
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    }
    vision = {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4}
    vision |= {"out_hidden_size": 32, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if kind == "qwen3_vl":
        text |= {"head_dim": 12, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]}}
        text["rope_parameters"]["rope_theta"] = 10000.0
        vision |= {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2]}
    else:
        text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    text |= changes.pop("text_config", {})
    vision |= changes.pop("vision_config", {})
    ids = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    ids = {name: tokenizer.token_to_id(token) for name, token in ids.items()}
    config = getattr(transformers, "Qwen3VLConfig" if kind == "qwen3_vl" else "Qwen2_5_VLConfig")
    return config(text_config=text, vision_config=vision, **ids, **changes)


def write_qwen(directory: Path, kind: str, *, seed: int = 0, pixels: tuple[int, int] = (256, 1600), **changes):
    """A base of "qwen2_5_vl" or "qwen3_vl" with random weights; gives the model of transformers.

    pixels: the fewest and the most that an image has. changes: see `qwen_config`.
    """
    tokenizer = write_bpe_tokenizer(directory)
    config = qwen_config(kind, tokenizer, **changes)
    torch.manual_seed(seed)
    name = "Qwen3VLForConditionalGeneration" if kind == "qwen3_vl" else "Qwen2_5_VLForConditionalGeneration"
    model = getattr(transformers, name)(config).eval()
    spread(model, seed)
    model.save_pretrained(directory)
    half = kind == "qwen3_vl"
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": pixels[0], "longest_edge": pixels[1]},
        "patch_size": config.vision_config.patch_size,
        "temporal_patch_size": config.vision_config.temporal_patch_size,
        "merge_size": config.vision_config.spatial_merge_size,
        "image_mean": [0.5] * 3 if half else [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.5] * 3 if half else [0.26862954, 0.26130258, 0.27577711],
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(images))
    return model


def spread(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights that differ enough for a model's choices to differ, biases and norms among them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.dim() >= 2 else parameter + 0.1 * noise)


def write_sam(path: Path) -> Path:
    """The SAM of `tests.tiny` as a directory of transformers."""
    torch.manual_seed(0)
    sam = transformers.SamModel(tiny_config().sam_config)
    spread(sam)
    sam.save_pretrained(path)
    return path
