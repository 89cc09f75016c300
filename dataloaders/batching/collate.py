"""Samples to a batch: prompts are tokenized and laid out in rows, images are resized once each, masks are checked.

Packed, all conversations about an image share a row: the prefix once, then a branch for each. Plain, every
conversation is a row. Both give every token the same context and the same position.

A position "predicts" the token after it: in a branch the one before, for its first token the end of the prefix.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dataloaders.batching.batch import (
    PADDING_BRANCH,
    PREFIX_BRANCH,
    Batch,
    Geometry,
    ImagePreparation,
    PreparedImages,
    image_key,
    place_images,
)
from dataloaders.batching.conversation import collapse_targets
from dataloaders.batching.encoding import EncodedConversation, encode_conversation
from dataloaders.batching.tokenization import IMAGE_TOKEN_INDEX, GroundingTokenizer
from dataloaders.sample import Sample
from groundscore.errors import UserError

logger = logging.getLogger(__name__)


class Processor:
    """What a batch depends on of a model.

    backbone_images, decoder_images: what prepares images for the two encoders; the second is None for a mask decoder
        that reads the backbone's features.
    conv_type: conversation template, a key of `dataloaders.batching.conversation.TEMPLATES`.
    identifies_images: batches say which image is which (`Batch.image_keys`); set where features are cached.
    """

    def __init__(
        self,
        tokenizer: GroundingTokenizer,
        backbone_images: ImagePreparation,
        decoder_images: ImagePreparation | None,
        conv_type: str = "llava_v1",
    ):
        self.tokenizer = tokenizer
        self.backbone_images = backbone_images
        self.decoder_images = decoder_images
        self.conv_type = conv_type
        self.identifies_images = False

    def decode(self, ids: Sequence[int]) -> str:
        """What a model wrote, with `[SEG]` and `[REJ]` once per target."""
        return collapse_targets(self.tokenizer.decode(ids), self.tokenizer.tokens_per_target)


@dataclass
class _Row:
    """One row before padding; the lists have an entry per token.

    image_start: the first image token; prefix_positions [axes, prefix_length]: position ids of the prefix;
    positions: those of the branches; first_position: that of every branch's first token.
    """

    image: int
    image_start: int
    prefix_length: int
    prefix_positions: Tensor
    first_position: int
    ids: list[int]
    branches: list[int]
    positions: list[int]

    @classmethod
    def of_prefix(cls, image: int, prefix: Sequence[int], geometry: Geometry) -> "_Row":
        """A row that holds the prefix of a conversation alone, which ends with the image."""
        start, length = prefix.index(IMAGE_TOKEN_INDEX), len(prefix)
        of_image, following = geometry.token_positions(start)
        before = torch.arange(start).expand(geometry.axes, -1)
        positions = torch.cat([before, of_image], dim=1)
        return cls(image, start, length, positions, following, list(prefix), [PREFIX_BRANCH] * length, [])

    def add_branch(self, branch: Sequence[int]) -> int:
        """Append a conversation and return where it begins."""
        start = len(self.ids)
        number = self.branches[-1] + 1
        self.ids += branch
        self.branches += [number] * len(branch)
        self.positions += range(self.first_position, self.first_position + len(branch))
        return start

    @property
    def position_ids(self) -> Tensor:
        """Position ids [axes, T] of all its tokens."""
        of_branches = torch.tensor(self.positions, dtype=torch.int64).expand(len(self.prefix_positions), -1)
        return torch.cat([self.prefix_positions, of_branches], dim=1)


@dataclass
class _Layout:
    """Rows, and (row, token) pairs of the positions that predict labels and targets."""

    rows: list[_Row] = field(default_factory=list)
    labels: list[tuple[int, int, int]] = field(default_factory=list)  # row, predicting token, label
    seg: list[list[tuple[int, int]]] = field(default_factory=list)  # n predicting tokens per target
    seg_image: list[int] = field(default_factory=list)
    rej: list[list[tuple[int, int]]] = field(default_factory=list)
    rej_image: list[int] = field(default_factory=list)

    def add(self, image: int, row_index: int, conversation: EncodedConversation, tokens_per_target: int) -> None:
        """Lay a conversation out as the next branch of a row."""
        row = self.rows[row_index]
        start = row.add_branch(conversation.branch)

        def predicting(index: int) -> tuple[int, int]:
            return row_index, (start + index - 1 if index > 0 else row.prefix_length - 1)

        self.labels += [(*predicting(index), conversation.branch[index]) for index in conversation.labelled]
        for target in conversation.targets:
            tokens = [predicting(target.start + offset) for offset in range(tokens_per_target)]
            (self.seg if target.is_seg else self.rej).append(tokens)
            (self.seg_image if target.is_seg else self.rej_image).append(image)


class Collator:
    """Makes a `Batch` of a list of samples.

    packed: all conversations about an image in one row; False gives each its own row.
    padding_side: "right", or "left" for generation.
    max_length: tokens that a conversation may have, image tokens included; None sets no limit. A longer one is cut at
        the end where that loses no target, else dropped and counted in `dropped`. An image that loses all its
        conversations leaves the batch.
    check_masks: a `[SEG]` needs a mask that is not empty and a `[REJ]` one that is. False where an evaluation asks for
        the mask of something absent.
    too_long: what to do, in the program that collates, about text that does not fit into `max_length`.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        packed: bool = True,
        padding_side: str = "right",
        max_length: int | None = 2048,
        check_masks: bool = True,
        too_long: str = "Raise --model_max_length",
    ):
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is 'left' or 'right', not {padding_side!r}")
        self.processor = processor
        self.packed = packed
        self.padding_side = padding_side
        self.max_length = max_length
        self.check_masks = check_masks
        self.too_long = too_long
        self._dropped = torch.zeros((), dtype=torch.int64).share_memory_()  # collation runs in worker processes

    @property
    def dropped(self) -> int:
        """Conversations dropped so far, in all worker processes together."""
        return int(self._dropped)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Returns the batch of the samples.

        Raises `UserError` where the masks of one do not fit its answers, or no conversation fits into `max_length`.
        """
        layout = _Layout()
        kept: list[Sample] = []
        prepared = []
        masks: list[Tensor] = []
        kinds: list[list[bool]] = []
        for sample in samples:
            image = _prepared(self.processor.backbone_images, sample)
            conversations, sample_masks, sample_kinds = self._encode(sample, image[1].tokens)
            if not conversations:
                continue
            self._lay_out(layout, len(kept), conversations, image[1])
            kept.append(sample)
            prepared.append(image)
            masks.append(sample_masks)
            kinds.append(sample_kinds)
        if not kept:
            raise UserError(
                f"no conversation fits into {self.max_length} tokens with its targets: "
                f"{', '.join(map(_source, samples))}. {self.too_long}."
            )
        images = PreparedImages.of(prepared)
        prepare = self.processor.decoder_images
        return Batch(
            **self._token_tensors(layout, images),
            target_is_seg=kinds,
            backbone_images=images,
            decoder_images=prepare and PreparedImages.of([_prepared(prepare, sample) for sample in kept]),
            original_sizes=[sample.size for sample in kept],
            masks=masks,
            ignore=[None if s.ignore is None else torch.from_numpy(np.array(s.ignore, dtype=bool)) for s in kept],
            sources=[_source(sample) for sample in kept],
            image_keys=[image_key(s.image) for s in kept] if self.processor.identifies_images else None,
        )

    def _encode(self, sample: Sample, image_tokens: int) -> tuple[list[EncodedConversation], Tensor, list[bool]]:
        """Conversations that fit, masks of their `[SEG]` targets bool [m, H, W], and the kinds of their targets.

        image_tokens: how many tokens of the LLM the sample's image has.
        """
        tokenizer = self.processor.tokenizer
        encoded = [
            encode_conversation(
                turns,
                tokenizer,
                num_image_tokens=image_tokens,
                conv_type=self.processor.conv_type,
            )
            for turns in sample.conversations
        ]
        kinds = [target.is_seg for conversation in encoded for target in conversation.targets]
        is_question = any(conversation.open for conversation in encoded)
        if not is_question:
            _check_targets(sample, kinds, self.check_masks)
        fitting: list[EncodedConversation] = []
        chosen: list[int] = []
        chosen_kinds: list[bool] = []
        first = 0
        for conversation in encoded:
            count = len(conversation.targets)
            cut = self._cut(conversation, sample)
            if cut is not None:
                fitting.append(cut)
                chosen += [index for index in range(first, first + count) if kinds[index]]
                chosen_kinds += kinds[first : first + count]
            first += count
        masks = sample.masks[[] if is_question else chosen] if len(chosen) < len(kinds) or is_question else sample.masks
        return fitting, torch.from_numpy(_as_bool(masks)), chosen_kinds

    def _cut(self, conversation: EncodedConversation, sample: Sample) -> EncodedConversation | None:
        if self.max_length is None or len(conversation) <= self.max_length:
            return conversation
        if conversation.open or self.max_length <= len(conversation.prefix):
            raise UserError(
                f"{_source(sample)}: the prompt has {len(conversation)} tokens, {len(conversation.prefix)} up to the "
                f"image; the limit is {self.max_length}. {self.too_long}."
            )
        cut = conversation.cut(self.max_length, self.processor.tokenizer.tokens_per_target)
        if cut is None:
            self._dropped += 1
            logger.warning(
                "%s: a conversation of %d tokens is dropped, its targets do not fit into %d",
                _source(sample),
                len(conversation),
                self.max_length,
            )
        return cut

    def _lay_out(
        self, layout: _Layout, image: int, conversations: Sequence[EncodedConversation], geometry: Geometry
    ) -> None:
        """Give every conversation a row, or a branch of the row that has its prefix."""
        tokens_per_target = self.processor.tokenizer.tokens_per_target
        row_of_prefix: dict[tuple[int, ...], int] = {}
        for conversation in conversations:
            row = row_of_prefix.get(conversation.prefix) if self.packed else None
            if row is None:
                row = row_of_prefix[conversation.prefix] = len(layout.rows)
                layout.rows.append(_Row.of_prefix(image, conversation.prefix, geometry))
            layout.add(image, row, conversation, tokens_per_target)

    def _token_tensors(self, layout: _Layout, images: PreparedImages) -> dict[str, Tensor]:
        """Pad the rows, and turn (row, token) pairs into flat indices."""
        rows = layout.rows
        length = max(len(row.ids) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        branches = torch.full(shape, PADDING_BRANCH)
        position_ids = torch.zeros((images.geometries[0].axes, *shape), dtype=torch.int64)
        shifts = [length - len(row.ids) if self.padding_side == "left" else 0 for row in rows]
        for index, (row, shift) in enumerate(zip(rows, shifts)):
            own = slice(shift, shift + len(row.ids))
            input_ids[index, own] = torch.tensor(row.ids)
            branches[index, own] = torch.tensor(row.branches)
            position_ids[:, index, own] = row.position_ids

        def flat(row: int, token: int) -> int:
            return row * length + shifts[row] + token

        def targets(predicting: list[list[tuple[int, int]]]) -> Tensor:
            indices = [[flat(*token) for token in target] for target in predicting]
            return torch.tensor(indices, dtype=torch.int64).reshape(-1, self.processor.tokenizer.tokens_per_target)

        image_starts = [shift + row.image_start for shift, row in zip(shifts, rows)]
        return {
            "input_ids": input_ids,
            "branches": branches,
            "position_ids": position_ids.squeeze(0) if len(position_ids) == 1 else position_ids,
            "image_index": torch.tensor([row.image for row in rows]),
            **place_images(images, image_starts, [row.image for row in rows], length),
            "label_positions": torch.tensor([flat(row, token) for row, token, _ in layout.labels], dtype=torch.int64),
            "label_ids": torch.tensor([label for *_, label in layout.labels], dtype=torch.int64),
            "seg_positions": targets(layout.seg),
            "seg_image": torch.tensor(layout.seg_image, dtype=torch.int64),
            "rej_positions": targets(layout.rej),
            "rej_image": torch.tensor(layout.rej_image, dtype=torch.int64),
        }


def _as_bool(masks: np.ndarray) -> np.ndarray:
    """Masks that are not 0, bool; those in {0, 1} without a copy."""
    if masks.dtype == np.uint8 and masks.flags.c_contiguous and masks.max(initial=0) <= 1:
        return masks.view(bool)
    return np.ascontiguousarray(masks != 0)


def _prepared(prepare: ImagePreparation, sample: Sample) -> tuple[Tensor, Geometry]:
    """The sample's image as an encoder takes it, its geometry on the full image."""
    pixels, geometry = prepare(sample.image)
    if sample.size == sample.image.shape[:2]:
        return pixels, geometry
    return pixels, geometry.on_full_image(sample.image.shape[:2], sample.size)


def _source(sample: Sample) -> str:
    return f"{sample.family}/{sample.dataset} {sample.image_path}"


def _check_targets(sample: Sample, kinds: Sequence[bool], check_masks: bool) -> None:
    """Complain unless there is one mask per target, of the image's size and of the right kind."""
    size = sample.size
    if sample.masks.ndim != 3 or (len(sample.masks) and sample.masks.shape[1:] != size):
        raise UserError(f"{_source(sample)}: masks {list(sample.masks.shape)} do not fit an image of {list(size)}")
    if sample.ignore is not None and sample.ignore.shape != size:
        raise UserError(f"{_source(sample)}: ignore {list(sample.ignore.shape)} does not fit an image of {list(size)}")
    if len(kinds) != len(sample.masks):
        raise UserError(
            f"{_source(sample)}: the answers name {len(kinds)} targets, but there are {len(sample.masks)} masks"
        )
    if not check_masks:
        return
    for index, (is_seg, mask) in enumerate(zip(kinds, sample.masks)):
        if bool(mask.any()) != is_seg:
            fault = "[SEG] whose mask is empty" if is_seg else "[REJ] whose mask is not empty"
            name = f" ({sample.expressions[index]!r})" if index < len(sample.expressions) else ""
            raise UserError(f"{_source(sample)}: target {index}{name} is a {fault}")
