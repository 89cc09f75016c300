"""The miniature's base of today, in Qwen3-VL's layout: `DIR/qwen3_vl`, written by `python -m miniature.base`.

One model of transformers with everything that Qwen3-VL has, small: an image encoder for images of any size that gives
features to the LLM's first layers, too (DeepStack), rotary positions in three axes, tied embeddings, and a byte-level
BPE tokenizer trained on the miniature's text. `vision.py` trains the image encoder.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dataloaders.batching.bpe_tokenization import BpeTokenizer
from groundscore.reading import parse_json, read_json
from groundscore.targets import REJ, SEG
from groundscore.writing import write_json
from miniature.sizes import MiniatureSizes

if TYPE_CHECKING:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from checkpoints.processing import GroundingProcessor
    from model.grounding import GroundingModel

FOLDER = "qwen3_vl"
IMAGES_FILE = "preprocessor_config.json"
END, PADDING = "<|im_end|>", "<|endoftext|>"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# How Qwen's tokenizers cut text into words, inside which bytes are paired.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATCH, MERGE = 8, 2  # a cell of merged patches is as large as a patch of the miniature's CLIP
WIDTH, DEPTH, DEEPSTACK = 80, 5, (1, 3)  # of the image encoder
CELLS = 64, 96  # image tokens at least and at most


def train_tokenizer(text: Iterator[str], vocabulary: int) -> BpeTokenizer:
    """A byte-level BPE with Qwen's special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([PADDING, "<|im_start|>", END, *VISION])
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END, "pad_token": PADDING}
    return BpeTokenizer(tokenizer.to_str().encode(), settings)


def qwen_config(sizes: MiniatureSizes, tokenizer: BpeTokenizer) -> "Qwen3VLConfig":
    """The configuration of the model; the LLM is as wide and as deep as the miniature's LLaMA."""
    from transformers import Qwen3VLConfig

    axes = sizes.llm_width // sizes.llm_heads // 2  # rotary frequencies, shared out among time, rows and columns
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.llm_width,
        "intermediate_size": sizes.llm_mlp,
        "num_hidden_layers": sizes.llm_layers,
        "num_attention_heads": sizes.llm_heads,
        "num_key_value_heads": sizes.llm_heads // 2,
        "head_dim": 2 * axes,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [axes - 2 * (axes // 3), axes // 3, axes // 3],
        },
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": DEPTH,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": sizes.llm_width,
        "num_position_embeddings": (sizes.clip_image // PATCH) ** 2,
        "deepstack_visual_indexes": list(DEEPSTACK),
    }
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = {name: tokenizer.added_tokens[token] for name, token in zip(names, VISION, strict=True)}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def build_qwen(out: Path, text: Iterator[str], seed: int, sizes: MiniatureSizes) -> None:
    """Writes `out/qwen3_vl` with random weights."""
    from transformers import Qwen3VLForConditionalGeneration

    tokenizer = train_tokenizer(text, sizes.vocabulary)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(qwen_config(sizes, tokenizer))
    pixels = [cells * (PATCH * MERGE) ** 2 for cells in CELLS]
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": pixels[0], "longest_edge": pixels[1]},
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    _write(out / FOLDER, model, tokenizer, images)


def extract_qwen(out: Path, model: "GroundingModel", processor: "GroundingProcessor") -> None:
    """Writes `out/qwen3_vl` from a trained model, without the rows of the grounding tokens."""
    from transformers import Qwen3VLForConditionalGeneration

    from checkpoints import export_base

    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / FOLDER
        export_base(model, processor, whole)
        theirs = Qwen3VLForConditionalGeneration.from_pretrained(whole, dtype=torch.float32)
        images = read_json(whole / IMAGES_FILE)
    tokenizer = without_targets(processor.tokenizer)
    theirs.resize_token_embeddings(len(tokenizer))
    _write(out / FOLDER, theirs, tokenizer, images)


def without_targets(tokenizer: BpeTokenizer) -> BpeTokenizer:
    """The tokenizer as it was before tokens of grounding were added to it, which come last."""
    content = parse_json(tokenizer.__getstate__()["model"].decode(), "the tokenizer")
    names = tuple(target[:-1] for target in (SEG, REJ))
    content["added_tokens"] = [one for one in content["added_tokens"] if not one["content"].startswith(names)]
    settings = {name: value for name, value in tokenizer.settings.items() if name != "tokens_per_target"}
    return BpeTokenizer(json.dumps(content).encode(), settings)


def _write(
    directory: Path, model: "Qwen3VLForConditionalGeneration", tokenizer: BpeTokenizer, images: dict[str, Any]
) -> None:
    """A directory that transformers reads, weights in half precision."""
    model.half().save_pretrained(directory)
    tokenizer.save(directory)
    write_json(directory / IMAGES_FILE, images, sort_keys=True)
