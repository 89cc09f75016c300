"""What the backbones share whose LLM is a decoder-only model of transformers: rows of tokens through its layers.

A member builds `language_model` (`embed_tokens`, `layers`, `norm`, `rotary_emb`) and `lm_head`, and says how images
become its tokens. `python -m model.backbones.check` compares all of it with the model of transformers itself.

Legend: R rows, T tokens of a row, D width, L layers, Q prompts that are answered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig

from dataloaders.batching.batch import PADDING_BRANCH, Batch
from groundscore.errors import UserError
from model.backbones.base import Backbone, EncodedImages, Rows, Step, ties_embeddings
from model.backbones.key_value_cache import RowCache, SharedRows, WrittenCache, attending_to_shared_rows
from model.backbones.row_attention import PREFIX_FIRST
from model.losses import TokenHead

SDPA, FLASH_ATTENTION = ATTENTIONS = ("sdpa", "flash_attention_2")  # others add a mask to the scores, ours is bool


def class_of_transformers(name: str) -> type:
    """The class of transformers of this name; `UserError` where the installed version does not have it."""
    found = getattr(transformers, name, None)
    if found is None:
        raise UserError(
            f"transformers {transformers.__version__} has no {name}, which this backbone is made of; update it: "
            "pip install --upgrade transformers"
        )
    return found


class LanguageModelBackbone(Backbone):
    """A backbone whose child `language_model` is a decoder-only LLM of transformers, without its head."""

    llm = "language_model"
    parts = {
        "llm": ("language_model",),
        "embeddings": ("language_model.embed_tokens",),
        "head": ("lm_head",),
    }
    language_model: nn.Module

    # --- text

    @property
    def embed_tokens(self) -> nn.Embedding:
        return self.language_model.embed_tokens

    @embed_tokens.setter
    def embed_tokens(self, value: nn.Embedding) -> None:
        self.language_model.embed_tokens = value

    # --- rows

    def attention(self, batch: Batch, visible: Tensor | None) -> Tensor:
        """Who sees whom, bool [R, 1, T, T]; for flash-attn bool [R, T], False for padding."""
        if self._attention == FLASH_ATTENTION:
            return flash_attention_rows(batch.branches, visible, packed=batch.packed)
        if self._attention != SDPA:
            raise UserError(
                f'attention "{self._attention}" does not support attention masks of packed rows; use '
                f"{' or '.join(ATTENTIONS)}"
            )
        return super().attention(batch, visible)

    def embed_rows(self, batch: Batch, images: EncodedImages) -> Rows:
        rows = super().embed_rows(batch, images)
        if self._attention == SDPA and images.visible is None:  # otherwise there are gaps in the prefix
            rows.prefix = batch.common_prefix
        return rows

    def unroll(self, rows: Rows, cache: RowCache | WrittenCache | None = None, **context: Any) -> tuple[Tensor, ...]:
        """The L+1 hidden states [R, T, D]; not by hooks on the model's output, which would see copies (ZeRO 3).

        context: what the attention in use needs besides.
        """
        llm = self.language_model
        if rows.prefix:
            llm.config._attn_implementation = PREFIX_FIRST  # and stays: checkpointed layers run again later
            context["prefix"] = rows.prefix
        positions = llm.rotary_emb(rows.embeddings, position_ids=rows.position_ids)
        if self._attention == SDPA and rows.attention.dim() == 4:
            rows = replace(rows, attention=_added_to_scores(rows.attention, rows.embeddings.dtype))
        states = [rows.embeddings]
        for layer in llm.layers:
            output = self.run_layer(layer, states[-1], rows, positions, cache, **context)
            states.append(rows.with_injection(output[0] if isinstance(output, tuple) else output, len(states) - 1))
        return *states[:-1], llm.norm(states[-1])

    def run_layer(
        self, layer: nn.Module, states: Tensor, rows: Rows, positions: tuple[Tensor, Tensor], cache: Any, **context: Any
    ) -> Any:
        """The output of a layer; positions: the rotary embeddings of the rows."""
        # Without names: the cache's is `past_key_values` in older versions of transformers and `cache` in newer.
        return layer(states, rows.attention, rows.position_ids, cache, position_embeddings=positions, **context)

    @contextmanager
    def stepping(
        self, rows: Rows, cache: RowCache, row: list[int], seen: Tensor, *, whole_rows: bool
    ) -> Iterator[Step]:
        """Reads a token alone: rows of one prompt each grow where they are, prompts of a row share it."""
        if whole_rows:
            yield _GrowingRows(self, cache, seen)
            return
        with attending_to_shared_rows(self.language_model):
            yield _PromptsOfRows(self, cache, row, seen)

    def read_token(
        self, ids: Tensor, attention: Tensor | None, position_ids: Tensor, cache: WrittenCache, **context: Any
    ) -> list[Tensor]:
        """The L+1 hidden states [Q, D] of one token of each prompt; arguments as those of `Step` and `unroll`."""
        token = Rows(self.embed_tokens(ids.unsqueeze(1)), attention, position_ids)
        return [states[:, -1] for states in self.unroll(token, cache, **context)]

    # --- settings

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.language_model.layers)

    @property
    def _attention(self) -> str:
        name = self.language_model.config._attn_implementation
        return SDPA if name == PREFIX_FIRST else name

    def use_attention(self, name: str) -> None:
        self.language_model.set_attn_implementation(name)

    @contextmanager
    def packed_attention(self) -> Iterator[None]:
        usual = self._attention
        self.use_attention(SDPA)
        try:
            yield
        finally:
            self.use_attention(usual)

    def checkpoint_gradients(self) -> None:
        llm, options = self.language_model, {"use_reentrant": False}
        if hasattr(llm, "activation_checkpointing_enable"):  # the newer name
            llm.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


class _GrowingRows:
    """The `Step` of rows that are one prompt each."""

    def __init__(self, backbone: LanguageModelBackbone, cache: RowCache, seen: Tensor):
        self.backbone, self.written, self.seen = backbone, WrittenCache.continuing(cache), seen

    def __call__(self, ids: Tensor, position_ids: Tensor) -> list[Tensor]:
        self.seen = F.pad(self.seen, (0, 1), value=True)
        attention = self.seen if self.backbone._attention == FLASH_ATTENTION else self.seen[:, None, None]
        return self.backbone.read_token(ids, attention, position_ids, self.written)

    def change(self, kept: list[int], row: list[int], seen: Tensor) -> None:
        assert not row, "every prompt is written from the start"
        self.written.change(torch.tensor(kept, device=self.seen.device), 0, 0)
        self.seen = self.seen[kept]


class _PromptsOfRows:
    """The `Step` of prompts that share rows.

    All write their n-th token to the same place of the cache, whenever they joined; starts: where each prompt's own
    begin there. tokens: how many are there.
    """

    def __init__(self, backbone: LanguageModelBackbone, cache: RowCache, row: list[int], seen: Tensor):
        self.backbone, self.cache, self.row, self.seen = backbone, cache, row, seen
        self.written, self.starts, self.tokens = WrittenCache.beside(cache, len(row)), [0] * len(row), 0
        self.shared = SharedRows(cache, row, seen)

    def __call__(self, ids: Tensor, position_ids: Tensor) -> list[Tensor]:
        self.tokens += 1
        self.shared.begin_at(self.starts, self.tokens)
        return self.backbone.read_token(ids, None, position_ids, self.written, shared=self.shared)

    def change(self, kept: list[int], row: list[int], seen: Tensor) -> None:
        starts = [self.starts[index] for index in kept] + [self.tokens] * len(row)
        forgotten = min(starts)
        self.written.change(torch.tensor(kept, dtype=torch.int64, device=seen.device), len(row), forgotten)
        self.starts, self.tokens = [start - forgotten for start in starts], self.tokens - forgotten
        self.row, self.seen = [self.row[index] for index in kept] + row, torch.cat([self.seen[kept], seen])
        self.shared = SharedRows(self.cache, self.row, self.seen)


class WholeModelBackbone(LanguageModelBackbone):
    """A backbone whose parts are those of one multimodal model of transformers; its images may differ in their grids.

    model_class, config_class: of transformers, for the model without its head and for its configuration.
    """

    model_class: ClassVar[str]
    config_class: ClassVar[str]

    def __init__(self, config: PreTrainedConfig, scales: int = 0):
        super().__init__(config, scales)
        if scales:
            raise UserError(
                f"{config.backbone}: the grids of its images differ in shape, and PixelLM's own decoder needs one; "
                "decode by SAM, without --vision_tower_for_mask"
            )
        self.adopt(class_of_transformers(self.model_class)(self.config_of_base(config)))
        text = config.text_config
        self.lm_head = TokenHead(text.hidden_size, text.vocab_size, bias=False)
        if ties_embeddings(config):
            self.lm_head.weight = self.language_model.embed_tokens.weight

    def adopt(self, model: nn.Module) -> None:
        """Takes what it needs of a new model of `model_class` as children, `language_model` among them."""
        raise NotImplementedError

    @classmethod
    def config_of_base(cls, config: PreTrainedConfig) -> PreTrainedConfig:
        """The configuration of the whole model in transformers."""
        raise NotImplementedError


def _added_to_scores(attention: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as SDPA makes it for itself, in every layer anew: 0 where it is True, minus infinity elsewhere."""
    return torch.zeros_like(attention, dtype=dtype).masked_fill_(~attention, -torch.inf)


def flash_attention_rows(branches: Tensor, visible: Tensor | None, *, packed: bool) -> Tensor:
    """What flash-attn takes for a mask: bool [R, T], False for padding; causal order is its own.

    packed: whether a row has several branches. Raises `UserError` for rows that flash-attn cannot express: packed
    conversations, and images with a padded part.
    """
    if visible is not None or packed:
        raise UserError(
            "flash-attn supports neither packed rows nor padded CLIP images; pass --attn_implementation sdpa, or "
            "--plain_rows without --pad_train_clip_images"
        )
    return branches != PADDING_BRANCH
