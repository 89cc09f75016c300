"""A model, a tokenizer and samples small enough for tests; every part is the real one, only narrow."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from checkpoints.processing import GroundingProcessor
from dataloaders.batching.tokenization import GroundingTokenizer
from dataloaders.sample import Sample, Turn
from model.config import GroundingConfig
from model.grounding import GroundingModel

SENTENCES = (
    "A chat between a curious human and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "USER: What is the small red ball left of the house in this image? Please output segmentation mask.",
    "ASSISTANT: Sure, it is the one. They are near the green tree and the boat.",
)


@cache
def tokenizer_bytes() -> bytes:
    """A SentencePiece model trained on a few sentences, with byte fallback."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=360,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def tiny_tokenizer(tokens_per_target: int = 1) -> GroundingTokenizer:
    tokenizer = GroundingTokenizer(tokenizer_bytes())
    tokenizer.add_grounding_tokens(tokens_per_target)
    return tokenizer


def tiny_config(system: str = "UGround", **overrides) -> GroundingConfig:
    """A configuration of any system; PixelLM gets its 3 × 2 tokens and its own decoder."""
    if system == "PixelLM":
        pixellm = {"seg_token_num": 3, "image_feature_scale_num": 2, "vision_tower_for_mask": True}
        overrides = {**pixellm, "separate_mm_projector": True, "pad_train_clip_images": True, **overrides}
    tokens = overrides.get("seg_token_num", 1) * overrides.get("image_feature_scale_num", 1)
    tokenizer = tiny_tokenizer(tokens)
    return GroundingConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "hidden_act": "quick_gelu",
        },
        sam_config=tiny_decoder(overrides.get("mask_decoder", "sam")),
        system=system,
        out_dim=32,
        seg_token_ids=tokenizer.seg_token_ids,
        rej_token_ids=tokenizer.rej_token_ids,
        im_start_id=tokenizer.im_start_id,
        im_end_id=tokenizer.im_end_id,
        **overrides,
    )


def tiny_decoder(name: str, side: int = 64) -> dict:
    """The configuration of any mask decoder's model, for images of about `side` pixels and prompts 32 wide."""
    head = {"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32}
    if name in ("sam2", "sam3_tracker"):
        patch = 16 if name == "sam2" else 14
        grid = side // 16
        return {
            "vision_config": {
                "backbone_config": _tiny_hiera(16 * grid) if name == "sam2" else _tiny_vit(14 * grid),
                "backbone_feature_sizes": [[times * grid, times * grid] for times in (4, 2, 1)],
                "fpn_hidden_size": 32,
                **(
                    {"backbone_channel_list": [64, 32, 16, 8]} if name == "sam2" else {"scale_factors": [4.0, 2.0, 1.0]}
                ),
            },
            "prompt_encoder_config": {"hidden_size": 32, "image_size": patch * grid, "patch_size": patch},
            "mask_decoder_config": head | {"dynamic_multimask_via_stability": False},
        }
    return {
        "vision_config": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "window_size": 2,
            "mlp_dim": 32,
            "image_size": side,
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": side, "image_embedding_size": side // 16},
        "mask_decoder_config": head | ({"vit_dim": 16} if name == "sam_hq" else {}),
    }


def _tiny_hiera(side: int) -> dict:
    return {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [side, side],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }


def _tiny_vit(side: int) -> dict:
    return {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    }


def tiny_model(system: str = "UGround", seed: int = 0, **overrides) -> tuple[GroundingModel, GroundingProcessor]:
    """A model with random weights that differ enough for its choices to differ, and its processor."""
    config = tiny_config(system, **overrides)
    torch.manual_seed(seed)
    model = GroundingModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return model, GroundingProcessor(config, tiny_tokenizer(config.tokens_per_target))


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A uint8 image [height, width, 3] of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    rows = np.arange(height) * 6 // height
    columns = np.arange(width) * 6 // width
    return blocks[rows][:, columns]


def box_mask(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    top, left, bottom, right = box
    mask[top:bottom, left:right] = 1
    return mask


def tiny_samples() -> list[Sample]:
    """Two images of different size: three conversations with one `[SEG]`, two `[SEG]`, a `[REJ]`; and two turns."""
    first, second = picture(1, 40, 60), picture(2, 70, 48)
    return [
        Sample(
            image_path=Path("first.jpg"),
            image=first,
            conversations=[
                (Turn("What is the red ball?", "It is [SEG]."),),
                (Turn("What are the house and the tree in this image?", "Sure, house is [SEG] and tree is [SEG]."),),
                (Turn("What is the boat? Please output segmentation mask.", "Sure, [REJ]."),),
            ],
            masks=np.stack(
                [
                    box_mask(40, 60, (5, 5, 20, 30)),
                    box_mask(40, 60, (10, 30, 35, 55)),
                    box_mask(40, 60, (0, 0, 12, 60)),
                    box_mask(40, 60, (0, 0, 0, 0)),
                ]
            ),
            ignore=None,
            family="refer_seg",
            dataset="refcoco",
            expressions=("red ball", "house", "tree", "boat"),
        ),
        Sample(
            image_path=Path("second.jpg"),
            image=second,
            conversations=[(Turn("What is the tree?", "It is [SEG]."), Turn("And the green one?", "They are near."))],
            masks=box_mask(70, 48, (20, 4, 60, 40))[None],
            ignore=box_mask(70, 48, (0, 0, 10, 10)).astype(bool),
            family="reason_seg",
            dataset="ReasonSeg",
            expressions=("tree",),
        ),
    ]


def text_only_sample() -> Sample:
    """An image with a dialogue and no target."""
    return Sample(
        image_path=Path("third.jpg"),
        image=picture(3, 50, 50),
        conversations=[(Turn("What is near the house?", "The green tree and the boat."),)],
        masks=np.zeros((0, 50, 50), dtype=np.uint8),
        ignore=None,
        family="vqa",
        dataset="llava_instruct_150k",
    )


def write_answer(model: GroundingModel, token_ids: list[int]) -> None:
    """Make `model` answer every prompt with these tokens and stop.

    The head is replaced by one that counts its calls, since a random model never writes what a test needs.
    """
    model.set_output_embeddings(
        _Script([*token_ids, model.backbone.end_of_answer], model.config.text_config.vocab_size)
    )


class _Script(torch.nn.Module):
    def __init__(self, token_ids: list[int], vocabulary: int):
        super().__init__()
        self.token_ids, self.vocabulary, self.step = token_ids, vocabulary, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        token = self.token_ids[self.step % len(self.token_ids)]
        self.step += 1
        return torch.nn.functional.one_hot(torch.tensor(token), self.vocabulary).float().expand(len(states), -1)
