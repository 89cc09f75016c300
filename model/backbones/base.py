"""Backbone: a multimodal LLM as everything above it sees it, images and text to the hidden states of every layer.

A member is one file with a subclass of `Backbone` and one line in `backbones/__init__.py`; docs/adding_a_backbone.md
shows one. Nothing outside that file knows how its model is built.

Legend: I images, n images of one group, N image tokens of all images, M image tokens of all rows, R rows, T tokens of a
row, D width of the LLM, L layers of the LLM, Q prompts that are answered.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig

from dataloaders.batching.batch import PADDING_BRANCH, PREFIX_BRANCH, Batch, ImageGroup, ImagePreparation
from dataloaders.batching.tokenization import GroundingTokenizer
from groundscore.errors import UserError
from model.backbones.key_value_cache import RowCache
from utils.settings import Rule


@dataclass
class EncodedImages:
    """The images of a batch as the LLM reads them.

    tokens [N, D]: of all images, ordered by group (`PreparedImages`).
    visible: bool [N], False where a token shows padding alone, or None where none does.
    features: what `Backbone.encode` gave for each group.
    injected: [N, D] each, added to the tokens' states after the first layers (`Backbone.injections`).
    """

    tokens: Tensor
    visible: Tensor | None
    features: list[list[Tensor]]
    injected: list[Tensor] = field(default_factory=list)


@dataclass
class Rows:
    """Rows of tokens on their way into the LLM.

    embeddings [R, T, D]: of text and images. attention: who sees whom, bool [R, 1, T, T] as `row_attention` makes it,
    or what else the backbone's attention takes. position_ids int64 [R, T], or [3, R, T] (see `Batch`).
    injected: [M, D] each, added to the image tokens' states after the first layers; image_positions int64 [M]: their
    flat indices into R·T. prefix: that many tokens of every row see the earlier ones among them and nothing else; 0
    where it is not known.
    """

    embeddings: Tensor
    attention: Tensor
    position_ids: Tensor
    injected: list[Tensor] = field(default_factory=list)
    image_positions: Tensor | None = None
    prefix: int = 0

    def with_injection(self, states: Tensor, layer: int) -> Tensor:
        """The output [R, T, D] of a layer as the next one reads it: with what is injected after this layer."""
        if layer >= len(self.injected):
            return states
        added = self.injected[layer].to(states.dtype)
        return states.flatten(0, 1).index_add(0, self.image_positions, added).view_as(states)


@dataclass(frozen=True)
class BaseValue:
    """A value that a backbone keeps of its base, beside the configurations of LLM and image encoder.

    rule: what it must be; default: where the base does not name it.
    """

    rule: Rule
    default: Any = None


class Step(Protocol):
    """Reads the next token of Q prompts."""

    def __call__(self, ids: Tensor, position_ids: Tensor) -> list[Tensor]:
        """The L+1 hidden states [Q, D] of the tokens `ids` [Q] at `position_ids` [Q, 1] (or [3, Q, 1])."""

    def change(self, kept: list[int], row: list[int], seen: Tensor) -> None:
        """Go on with the prompts `kept`, by their indices, followed by new ones: `row`, `seen` as in `stepping`."""


class RereadingStep:
    """The step that reads everything again for every token."""

    def __init__(self, backbone: "Backbone", rows: Rows, row: list[int], seen: Tensor):
        self.backbone, self.rows, self.written = backbone, rows, 0
        self._set(row, seen)

    def _set(self, row: list[int], seen: Tensor) -> None:
        self.embeddings, self.positions = self.rows.embeddings[row], self.rows.position_ids[..., row, :]
        self.attention, self.seen = self.rows.attention[row], seen

    def __call__(self, ids: Tensor, position_ids: Tensor) -> list[Tensor]:
        self.written += 1
        self.seen = F.pad(self.seen, (0, 1), value=True)  # [Q, T+1]
        self.attention = torch.cat([F.pad(self.attention, (0, 1)), self.seen[:, None, None]], dim=2)
        self.embeddings = torch.cat([self.embeddings, self.backbone.embed_tokens(ids.unsqueeze(1))], dim=1)
        self.positions = torch.cat([self.positions, position_ids], dim=-1)
        unrolled = self.backbone.unroll(Rows(self.embeddings, self.attention, self.positions))
        return [states[:, -1] for states in unrolled]

    def change(self, kept: list[int], row: list[int], seen: Tensor) -> None:
        """New prompts have tokens that nobody sees where the others have written."""
        before = self.embeddings[kept], self.positions[..., kept, :], self.attention[kept], self.seen[kept]
        self._set(row, seen)
        count = self.written
        attention = F.pad(self.attention, (0, count, 0, count))
        own = torch.arange(attention.shape[-1] - count, attention.shape[-1], device=attention.device)
        attention[..., own, own] = True  # no softmax is empty
        self.embeddings = torch.cat([before[0], F.pad(self.embeddings, (0, 0, 0, count))])
        self.positions = torch.cat([before[1], F.pad(self.positions, (0, count))], dim=-2)
        self.attention = torch.cat([before[2], attention])
        self.seen = torch.cat([before[3], F.pad(self.seen, (0, count))])


class Backbone(nn.Module):
    """Base of the backbones.

    The names of its child modules are the first parts of the names in a checkpoint: the model that is built on it has
    the same children. It has no parameters of its own beside them. One child is `lm_head`, a `model.losses.TokenHead`.

    encoder_name: what its image encoder is called in messages. `config` is always the model's `GroundingConfig`.
    llm: the child that is the LLM, whose linear layers LoRA may adapt.
    parts: names of modules by what they are: "encoder", "projector", "llm", and one each as "embeddings" and
        "head", whose tables grow with the vocabulary.

    What a checkpoint of it is on disk:

    base_types: `model_type` of the checkpoints of transformers that are bases of it.
    text_types, vision_types: `model_type` of the configurations of its LLM and of its image encoder; the first is that
        of a configuration that does not say.
    stacks: modules that are lists of layers, and which of the two configurations says how many there are.
    names: beginnings of the names of a base's tensors and of ours (see `checkpoints.names.Layout`); () for a backbone
        whose bases `checkpoints.sources` reads in ways of their own.
    base_values: what else it keeps of a base, by name, in the configuration's `base_values`.
    tokenizer: the class of its tokenizer.
    conv_types: the conversation templates that it understands; the first is that of a new model.
    settings: names of `model.settings.ImageSettings` that it has.
    """

    encoder_name: ClassVar[str] = "image encoder"
    llm: ClassVar[str] = "llm"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {}
    lm_head: nn.Module

    base_types: ClassVar[tuple[str, ...]] = ()
    text_types: ClassVar[tuple[str, ...]] = ("llama",)
    vision_types: ClassVar[tuple[str, ...]] = ("clip_vision_model",)
    stacks: ClassVar[dict[str, str]] = {}
    names: ClassVar[tuple[tuple[str, str], ...]] = ()
    base_values: ClassVar[dict[str, BaseValue]] = {}
    tokenizer: ClassVar[type[GroundingTokenizer]] = GroundingTokenizer
    conv_types: ClassVar[tuple[str, ...]] = ("llava_v1", "vicuna_v1")
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: PreTrainedConfig, scales: int = 0):
        """scales: feature maps that the mask decoder reads, see `feature_maps`."""
        super().__init__()
        self.config = config

    @property
    def added_modules(self) -> tuple[str, ...]:
        """Names of the children that a base of this backbone may lack: they are newly initialised then."""
        return ()

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> ImagePreparation:
        """What prepares an image for `encode`; it can be pickled, since images are prepared in worker processes."""
        raise NotImplementedError

    @classmethod
    def read_base_values(cls, config: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, Any]:
        """The `base_values` of a base, from its `config.json` and from the settings of its image processor."""
        found = {**config, **images}
        values = {name: found.get(name) for name in cls.base_values}
        return {name: cls.base_values[name].default if value is None else value for name, value in values.items()}

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        """Raises `UserError` for settings of a model that this backbone cannot have, or that exclude each other."""

    @classmethod
    def image_summary(cls, config: PreTrainedConfig) -> str:
        """How it sees images, in a few words for the card of a model."""
        return "as many image tokens as its pixels take, in its own proportions"

    # --- text

    @property
    def embed_tokens(self) -> nn.Embedding:
        """The word embeddings [V, D]."""
        raise NotImplementedError

    @embed_tokens.setter
    def embed_tokens(self, value: nn.Embedding) -> None:
        raise NotImplementedError

    @property
    def end_of_answer(self) -> int:
        """The id of the token that ends an answer."""
        return self.config.text_config.eos_token_id

    # --- images

    @property
    def encoder(self) -> nn.Module:
        """The module whose work `encode` is; while it is frozen its features may be cached."""
        raise NotImplementedError

    def encoder_settings(self) -> dict[str, Any]:
        """What `encode` gives depends on, beside the encoder's weights and the image: values that JSON can hold."""
        return {"encoder": self.encoder_name}

    def encode(self, group: ImageGroup) -> list[Tensor]:
        """Features of the images of a group, one or several tensors [n, …]."""
        raise NotImplementedError

    def encode_groups(self, groups: list[ImageGroup]) -> list[list[Tensor]]:
        """Features of all groups, as `encode` gives them. A backbone whose batches differ in their number of groups
        encodes them in one call: ZeRO 3 fetches weights call by call, on all processes together."""
        return [self.encode(group) for group in groups]

    def project_groups(
        self, features: list[list[Tensor]], groups: list[ImageGroup]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """What `project` gives for each group; in one call where `encode_groups` is."""
        return [self.project(*each) for each in zip(features, groups, strict=True)]

    def project(self, features: list[Tensor], group: ImageGroup) -> tuple[Tensor, Tensor | None]:
        """The LLM's image tokens [n, tokens, D], and which of them show more than padding, bool [n, tokens] or None.

        features: from `encode` or from a cache; group: whose they are.
        """
        raise NotImplementedError

    def injections(self, features: list[Tensor], group: ImageGroup) -> list[Tensor]:
        """What is added to the image tokens' states [n, tokens, D] after the first layers, a tensor for each of them.

        features, group: as in `project`.
        """
        return []

    def feature_maps(self, images: EncodedImages) -> list[Tensor]:
        """Maps [I, C, h, w] for a mask decoder that reads the backbone's features, one for each of its scales."""
        raise UserError(f"{type(self).__name__} has no features to decode masks from; use a system that decodes by SAM")

    # --- rows

    def embed_rows(self, batch: Batch, images: EncodedImages) -> Rows:
        """Text and images embedded, laid out as the batch says."""
        embeddings = self.embed_tokens(batch.input_ids.clamp(min=0))  # [R, T, D]
        positions, tokens = batch.image_positions, images.tokens[batch.image_tokens]  # [M], [M, D]
        flat = embeddings.flatten(0, 1)
        flat = flat.scatter(0, positions.unsqueeze(1).expand_as(tokens), tokens.to(flat.dtype))
        visible = None if images.visible is None else images.visible[batch.image_tokens]
        attention = self.attention(batch, visible)
        injected = [each[batch.image_tokens] for each in images.injected]
        return Rows(flat.view_as(embeddings), attention, batch.position_ids, injected, positions)

    def attention(self, batch: Batch, visible: Tensor | None) -> Tensor:
        """Who sees whom, as `unroll` takes it; visible: bool [M], see `EncodedImages`."""
        return row_attention(batch.branches, batch.image_positions, visible)

    def unroll(self, rows: Rows, cache: RowCache | None = None) -> tuple[Tensor, ...]:
        """The L+1 hidden states [R, T, D]: the embeddings, every layer, the last one after the final norm.

        Each is the very tensor that the next layer reads and not a copy beside it: gradients of chosen states are added
        on their way through (`states.py`). cache: takes the keys and values of every layer, for `stepping`.
        """
        raise NotImplementedError

    @contextmanager
    def stepping(
        self, rows: Rows, cache: RowCache, row: list[int], seen: Tensor, *, whole_rows: bool
    ) -> Iterator[Step]:
        """Gives what reads the next token of Q prompts, after `unroll(rows, cache)`.

        row: the row of each prompt; seen: bool [Q, T], what of its row a prompt sees; whole_rows: every row is one
        prompt. This one reads everything again for every token; a member with a cache reads the new token alone.
        """
        yield RereadingStep(self, rows, row, seen)

    # --- the model of transformers that it is compared with (`check.py`) and written as

    @classmethod
    def config_of_base(cls, config: PreTrainedConfig) -> PreTrainedConfig:
        """The configuration of the whole model in transformers, of a backbone with `names`."""
        raise NotImplementedError

    @classmethod
    def image_settings_of_base(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """What `preprocessor_config.json` of a base says."""
        raise NotImplementedError

    def take_base(self, base: nn.Module) -> None:
        """Copies the weights of the model of transformers, whose parts have the names of our children."""
        for name, child in self.named_children():
            theirs = base.lm_head if name == "lm_head" else getattr(base.model, name)
            child.load_state_dict(theirs.state_dict() if isinstance(theirs, nn.Module) else {"weight": theirs})

    def inputs_of_base(self, group: ImageGroup, is_image: Tensor) -> dict[str, Tensor]:
        """What that model takes for one image beside token ids and attention mask; is_image: bool [1, T], which of the
        tokens are the image's."""
        raise UserError(f"{type(self).__name__} cannot be compared with a model of transformers")

    # --- settings

    @property
    def layers(self) -> list[nn.Module]:
        """The L layers of the LLM."""
        raise NotImplementedError

    def use_attention(self, name: str) -> None:
        """Use this implementation of attention in the LLM, "sdpa" or "flash_attention_2"."""
        if name != "sdpa":
            raise UserError(f'attention "{name}": {type(self).__name__} has sdpa alone')

    @contextmanager
    def packed_attention(self) -> Iterator[None]:
        """Inside the `with` block attention takes packed rows, whatever implementation is in use."""
        yield

    def checkpoint_gradients(self) -> None:
        """Run the LLM's layers again in the backward pass instead of keeping what they computed."""
        raise UserError(f"{type(self).__name__} has no gradient checkpointing; pass --no_gradient_checkpointing")

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Modules to compile, by name: those whose shapes change with the number of images alone."""
        return {}


def depth_of(part: PreTrainedConfig) -> int:
    """How many layers the configuration of an LLM or of an image encoder names: older versions of transformers call
    those of an encoder `depth` alone."""
    return part.depth if hasattr(part, "depth") else part.num_hidden_layers


def ties_embeddings(config: PreTrainedConfig) -> bool:
    """Whether the head of the LLM of a `GroundingConfig` is its table of word embeddings; not every class says."""
    return bool(getattr(config.text_config, "tie_word_embeddings", False))


def row_attention(branches: Tensor, image_positions: Tensor, visible: Tensor | None) -> Tensor:
    """Who sees whom in rows of packed conversations.

    branches [R, T] (see `Batch`), image_positions [M] flat indices into R·T, visible: bool [M] or None.
    Returns bool [R, 1, T, T]: a token sees itself and earlier tokens of the prefix or of its own branch; nobody sees
    padding or the padded part of an image, except that padding sees itself, so that no softmax is empty.
    """
    length = branches.shape[1]
    seen = branches != PADDING_BRANCH
    if visible is not None:
        seen = seen.flatten().scatter(0, image_positions, visible).view_as(seen)
    causal = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    same = (branches[:, None, :] == PREFIX_BRANCH) | (branches[:, None, :] == branches[:, :, None])
    allowed = causal & same & seen[:, None, :]
    padding = torch.diag_embed(branches == PADDING_BRANCH)
    return (allowed | padding).unsqueeze(1)
