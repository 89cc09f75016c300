"""A random model with everything real but its size, for tests of what is built around models."""

import io
from functools import cache

import sentencepiece
import torch

from dataloaders.processing import GroundingProcessor
from dataloaders.tokenization import GroundingTokenizer
from model.config import GroundingConfig
from model.grounding import GroundingModel

SENTENCES = (
    "A chat between a curious human and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "What is the red kite in this image? Please output segmentation mask.",
    "Where is the small blue ball? Can you segment the ring left of the box?",
    "Sure, the kite is here, and the other one is not. It is there.",
)


@cache
def tiny_tokenizer(tokens_per_target: int = 1) -> GroundingTokenizer:
    """A LLaMA-like vocabulary of some 350 pieces with byte fallback, and the tokens of grounding."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = GroundingTokenizer(model.getvalue())
    tokenizer.add_grounding_tokens(tokens_per_target)
    return tokenizer


def tiny_model(system: str = "UGround", seed: int = 0, **fields) -> tuple[GroundingModel, GroundingProcessor]:
    """A model in evaluation mode and its processor."""
    tokenizer = tiny_tokenizer()
    config = GroundingConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 512,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        sam_config={
            "vision_config": {
                "image_size": 64,
                "patch_size": 16,
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "mlp_dim": 32,
                "output_channels": 16,
                "num_pos_feats": 8,
                "global_attn_indexes": [0],
            },
            "prompt_encoder_config": {"image_size": 64, "image_embedding_size": 4, "hidden_size": 16},
            "mask_decoder_config": {
                "hidden_size": 16,
                "num_attention_heads": 2,
                "mlp_dim": 32,
                "iou_head_hidden_dim": 16,
            },
        },
        system=system,
        out_dim=16,
        seg_token_ids=tokenizer.seg_token_ids,
        rej_token_ids=tokenizer.rej_token_ids,
        im_start_id=tokenizer.im_start_id,
        im_end_id=tokenizer.im_end_id,
        **fields,
    )
    torch.manual_seed(seed)
    model = GroundingModel(config).eval()
    return model, GroundingProcessor(config, tokenizer)


def write_answer(model: GroundingModel, token_ids: list[int]) -> None:
    """Make `model` answer every prompt with these tokens and stop.

    The head is replaced by one that counts its calls, since a random model never writes what a test needs.
    """
    model.lm_head = _Script([*token_ids, model.config.text_config.eos_token_id], model.config.text_config.vocab_size)


class _Script(torch.nn.Module):
    def __init__(self, token_ids: list[int], vocabulary: int):
        super().__init__()
        self.token_ids, self.vocabulary, self.step = token_ids, vocabulary, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        token = self.token_ids[self.step % len(self.token_ids)]
        self.step += 1
        return torch.nn.functional.one_hot(torch.tensor(token), self.vocabulary).float().expand(len(states), -1)
