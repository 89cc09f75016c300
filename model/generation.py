"""Greedy generation with a key-value cache, keeping the states that the masks are decoded from.

An image is encoded once. Packed rows hold an image's prompts as branches, plain rows one each: all rows are read in one
pass, so that what the prompts of an image share is read once. Every further token costs one position, and keeps the
keys and values of that position alone (`backbones/key_value_cache.py`). The image tokens' states come from reading the
prompt, a target's state from the step that wrote its `[SEG]`. Answers that have ended leave, and prompts
that waited for memory join, while the others go on.

Legend: B rows of the batch, R prompts (and their answers), T tokens of a row, P cells of the largest grid, c tokens per
target, n targets of an answer, L+1 hidden states, D width, H W size of an image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dataloaders.batching.batch import PREFIX_BRANCH, Batch
from model.backbones.base import EncodedImages, Rows
from model.backbones.key_value_cache import RowCache, bytes_of_a_prompt
from model.outputs import Answer
from model.states import TargetStates
from utils.free_memory import free_memory, is_out_of_memory, release_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE_OF_FREE = 0.7  # of the free memory for what is written; the rest is for the activations and for the masks

SCORED_PIXELS = 2**26  # of masks at a time: what is computed of them takes as much memory again

logger = logging.getLogger(__name__)


@dataclass
class WrittenRow:
    """One answer as it grows.

    token_ids: what was written; seg_indices: index of the first token of each target; targets: the states [c, L+1, D]
    that predicted it; partial: states of a target that is not complete yet; ended: nothing more will be written.
    """

    token_ids: list[int] = field(default_factory=list)
    seg_indices: list[int] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    partial: list[Tensor] = field(default_factory=list)
    ended: bool = False

    def append(self, token: int, state: Callable[[], Tensor], seg_ids: list[int]) -> None:
        """Add a token; `state` gives the states [L+1, D] of the position that predicted it."""
        if token != seg_ids[len(self.partial)]:
            self.partial = []
        if token == seg_ids[len(self.partial)]:
            self.partial.append(state())
            if len(self.partial) == len(seg_ids):
                self.seg_indices.append(len(self.token_ids) + 1 - len(seg_ids))
                self.targets.append(torch.stack(self.partial))
                self.partial = []
        self.token_ids.append(token)


@dataclass
class WrittenAnswers:
    """Answers as they were written, before any mask is decoded: R of them, ordered by row and branch.

    images: the image that each is about. states: of the targets of all of them, None where no answer names any.
    """

    rows: list[WrittenRow]
    images: list[int]
    states: TargetStates | None


def generate_answers(
    model: PreTrainedModel,
    batch: Batch,
    max_new_tokens: int,
    layer: str | int,
    on_token: Callable[[int, int], None] | None,
) -> list[Answer]:
    """Answers to the prompts of a batch of packed or plain rows, ordered by row and branch.

    layer: a checked layer rule; on_token(number of the answer, token id) is called as tokens are written.
    """
    written = write_answers(model, batch, max_new_tokens, on_token)
    if written.states is None:
        empty = [
            batch.input_ids.new_zeros((0, *batch.original_sizes[image]), dtype=torch.float32)
            for image in written.images
        ]
        return [answer_of(model, row, masks) for row, masks in zip(written.rows, empty, strict=True)]
    prompt = model.system.prompt(model, written.states, batch, layer)
    masks, present = model.masks(batch, written.states, prompt)
    layers, scores = iter(prompt.layers.tolist()), iter(torch.cat([mask_scores(each) for each in masks]).tolist())
    answers = []
    for row, own, maps in zip(written.rows, masks, prompt.maps or [None] * len(masks), strict=True):
        answer = answer_of(model, row, own)
        answer.layers, answer.mask_scores = (list(islice(each, len(own))) for each in (layers, scores))
        answer.similarity_maps = maps if row.targets else None
        answer.object_scores = None if present is None else present[len(answers)].tolist()
        answers.append(answer)
    return answers


def write_answers(
    model: PreTrainedModel, batch: Batch, max_new_tokens: int, on_token: Callable[[int, int], None] | None = None
) -> WrittenAnswers:
    """Answers to the prompts of a batch, and the states that their masks are decoded from; see `generate_answers`."""
    encoded = model.encode_images(batch)
    prompts = read_prompts(model, batch, encoded)
    rows = _write_all(model, prompts, max_new_tokens, on_token)
    images = prompts.image.tolist()
    targets = [state for row in rows for state in row.targets]
    if not targets:
        return WrittenAnswers(rows, images, None)
    counts = [len(row.targets) for row in rows]
    row_of_target = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)], device=model.device)
    states = TargetStates(
        unrolled=prompts.unrolled,
        seg_positions=None,
        cell_positions=prompts.cell_positions[row_of_target],
        image=prompts.image[row_of_target],
        images=encoded,
        groups=images,
        counts=counts,
        geometries=[batch.backbone_images.geometries[image] for image in images],
        sizes=[batch.original_sizes[image] for image in images],
        written=torch.stack(targets),
    )
    return WrittenAnswers(rows, images, states)


def answer_of(model: PreTrainedModel, row: WrittenRow, mask_logits: Tensor) -> Answer:
    """A written answer with the masks [n, H, W] of its targets; of their layers, maps and scores it says nothing."""
    return Answer(
        token_ids=row.token_ids,
        seg_indices=row.seg_indices,
        mask_logits=mask_logits,
        layers=[],
        similarity_maps=None,
        mask_scores=[],
        rej_indices=written_at(row.token_ids, model.config.rej_token_ids),
    )


@dataclass
class ReadPrompts:
    """R prompts, ordered by row and branch, ready to be answered.

    rows: as they were read; cache: their keys and values. row: the row of each prompt. seen: bool [R, T], what its next
    token sees of it. positions [R, 1] or [3, R, 1]: the position ids of its last token. last: L+1 states [R, D] of
    that token.
    unrolled: L+1 states [B, T, D] of the rows.
    image [R]: what it is about. cell_positions [R, P]: flat indices into B·T of the cells of that image's grid.
    """

    rows: Rows
    cache: RowCache
    row: list[int]
    seen: Tensor
    positions: Tensor
    last: list[Tensor]
    unrolled: tuple[Tensor, ...]
    image: Tensor
    cell_positions: Tensor


def read_prompts(model: PreTrainedModel, batch: Batch, images: EncodedImages) -> ReadPrompts:
    """Read all rows in one pass, packed or not, with padding on either side."""
    rows, cache = model.embed_rows(batch, images), RowCache()
    unrolled = model.backbone.unroll(rows, cache)
    row_of_prompt, last_token = ends_of_prompts(batch.branches.cpu())
    row, end = (torch.tensor(each, device=batch.branches.device) for each in (row_of_prompt, last_token))
    return ReadPrompts(
        rows=rows,
        cache=cache,
        row=row_of_prompt,
        seen=rows.attention[row, 0, end] if rows.attention.dim() == 4 else rows.attention[row],
        positions=batch.position_ids[..., row, end].unsqueeze(-1),
        last=[states[row, end] for states in unrolled],
        unrolled=unrolled,
        image=batch.image_index[row],
        cell_positions=batch.cell_positions[row],
    )


def ends_of_prompts(branches: Tensor) -> tuple[list[int], list[int]]:
    """The row of each prompt, and the index of its last token there; branches [B, T] as in `Batch`."""
    rows, ends = [], []
    for row, of_row in enumerate(branches):
        for branch in range(PREFIX_BRANCH + 1, int(of_row.max()) + 1):
            rows.append(row)
            ends.append(int((of_row == branch).nonzero()[-1]))
    return rows, ends


def written_at(token_ids: list[int], target: list[int]) -> list[int]:
    """Where the tokens of a target stand one after the other: the index of the first of them, for every time."""
    starts, index = [], 0
    while target and index <= len(token_ids) - len(target):
        found = token_ids[index : index + len(target)] == list(target)
        if found:
            starts.append(index)
        index += len(target) if found else 1
    return starts


def mask_scores(logits: Tensor) -> Tensor:
    """[n]: mean probability of the predicted foreground of each mask [n, H, W] (PixelLM's mask score)."""
    scores = []
    for part in logits.split(max(1, SCORED_PIXELS // max(1, logits[0].numel() if len(logits) else 1))):
        inside = part > 0
        total = (part.sigmoid() * inside).sum(dim=(1, 2))
        scores.append(total / (inside.sum(dim=(1, 2)) + 1e-6))
    return torch.cat(scores)


def _write_all(
    model: PreTrainedModel,
    prompts: ReadPrompts,
    max_new_tokens: int,
    on_token: Callable[[int, int], None] | None,
) -> list[WrittenRow]:
    """Write all answers, as many at a time as memory is free for, and half as many where that was too many.

    What turned out to be too many is remembered for the model's later batches.
    """
    total = len(prompts.row)
    size = min(total, model.prompts_at_a_time or total, _prompts_that_fit(model, prompts, max_new_tokens))
    told = [0] * total  # tokens that the caller knows, who does not hear them again
    rows: dict[int, WrittenRow] = {}

    def tell(prompt: int, number: int, token: int) -> None:
        if on_token is not None and number == told[prompt]:
            told[prompt] += 1
            on_token(prompt, token)

    while len(rows) < total:
        left = [prompt for prompt in range(total) if prompt not in rows]
        try:
            for prompt, row in _write(model, prompts, left, size, max_new_tokens, tell):
                rows[prompt] = row
            continue
        except Exception as error:
            failed = min(size, total - len(rows))
            if failed == 1 or prompts.cache.is_given_away or not is_out_of_memory(error):
                raise
        # Here nothing refers to the failed attempt any more, so that its memory can be used.
        release_memory(model.device)
        size = -(-failed // 2)
        if model.prompts_at_a_time is None:
            logger.warning(
                "out of memory with %d prompts at a time; continuing with half as many, or fewer if needed",
                failed,
            )
        model.prompts_at_a_time = size
    return [rows[prompt] for prompt in range(total)]


def _prompts_that_fit(model: PreTrainedModel, prompts: ReadPrompts, max_new_tokens: int) -> int:
    """How many prompts may write at a time so that their longest answers take `SHARE_OF_FREE` at most; at least 1."""
    free = free_memory(model.device)
    if free is None:
        return len(prompts.row)
    return max(1, int(SHARE_OF_FREE * free) // max(1, bytes_of_a_prompt(prompts.cache, max_new_tokens)))


def _write(
    model: PreTrainedModel,
    prompts: ReadPrompts,
    chosen: list[int],
    at_a_time: int,
    max_new_tokens: int,
    on_token: Callable[[int, int, int], None],
) -> Iterator[tuple[int, WrittenRow]]:
    """Writes the answers to the chosen prompts and gives each with its prompt when it has ended, in any order.

    Of more than `at_a_time` prompts the next joins when one has ended. When no more are waiting those that have ended
    leave a quarter at a time, since the keys and values of the others are copied then.
    on_token(prompt, number of the token, token id) is called as tokens are written.
    """
    seg_ids, rows = list(model.config.seg_token_ids), {prompt: WrittenRow() for prompt in chosen}

    def pick(answered: list[int], states: list[Tensor]) -> Tensor:
        """The next tokens [Q] of prompts, from the states [Q, D] of their last ones."""
        ids = model.lm_head(states[-1]).argmax(dim=-1)
        for index, (prompt, token) in enumerate(zip(answered, ids.tolist(), strict=True)):
            row = rows[prompt]
            if row.ended or token == model.backbone.end_of_answer:
                row.ended = True
                continue
            row.append(token, lambda i=index: torch.stack([layer[i] for layer in states]), seg_ids)
            row.ended = len(row.token_ids) == max_new_tokens
            on_token(prompt, len(row.token_ids) - 1, token)
        return ids

    active, waiting = chosen[:at_a_time], chosen[at_a_time:]
    row, seen = [prompts.row[prompt] for prompt in active], prompts.seen[active]
    whole_rows = row == prompts.row == list(range(len(prompts.rows.embeddings)))
    positions, last = prompts.positions[..., active, :], [states[active] for states in prompts.last]
    with model.backbone.stepping(prompts.rows, prompts.cache, row, seen, whole_rows=whole_rows) as step:
        while active:
            ids = pick(active, last)
            while ended := [prompt for prompt in active if rows[prompt].ended]:
                if not waiting and len(ended) < max(1, len(active) // 4):
                    break
                yield from ((prompt, rows[prompt]) for prompt in ended)
                kept = [index for index, prompt in enumerate(active) if not rows[prompt].ended]
                joining, waiting = waiting[: len(ended)], waiting[len(ended) :]
                active = [active[index] for index in kept] + joining
                if not active:
                    return
                step.change(kept, [prompts.row[prompt] for prompt in joining], prompts.seen[joining])
                positions = torch.cat([positions[..., kept, :], prompts.positions[..., joining, :]], dim=-2)
                ids = ids[kept]
                if joining:
                    ids = torch.cat([ids, pick(joining, [states[joining] for states in prompts.last])])
            positions = positions + 1
            last = step(ids, positions)
