"""Greedy generation with a key-value cache, keeping the states that the masks are decoded from.

An image is encoded once and the prompts are read once (`prompts.py`); every further token costs one position, and
keeps the keys and values of that position alone (`key_value_cache.py`). The image tokens' states come from reading the
prompt, a target's state from the step that wrote its `[SEG]`.

Legend: R rows (answers), T tokens of a prompt, n tokens per target, L+1 hidden states, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaModel

from dataloaders.batching.batch import Batch
from model.backbones.key_value_cache import SharedRows, WrittenCache, attending_to_shared_rows, bytes_of_a_prompt
from model.backbones.llava import unroll
from model.outputs import Answer
from model.prompts import ReadPrompts, read_prompts
from model.states import TargetStates
from utils.free_memory import free_memory, is_out_of_memory, release_memory

if TYPE_CHECKING:
    from model.grounding import GroundingModel

SHARE_OF_FREE = 0.7  # of the free memory for what is written; the rest is for the activations and for the masks

logger = logging.getLogger(__name__)


@dataclass
class WrittenRow:
    """One answer as it grows.

    token_ids: what was written; seg_indices: index of the first token of each target; targets: the states [n, L+1, D]
    that predicted it; partial: states of a target that is not complete yet; ended: the end of the answer was written.
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


def generate_answers(
    model: GroundingModel,
    batch: Batch,
    max_new_tokens: int,
    layer: str | int,
    on_token: Callable[[int, int], None] | None,
) -> list[Answer]:
    """Answers to the prompts of a batch of packed or plain rows, ordered by row and branch.

    layer: a checked layer rule; on_token(number of the answer, token id) is called as tokens are written.
    """
    image_tokens = model.encode_images(batch)
    prompts = read_prompts(model, batch, image_tokens)
    rows = _write_all(model, prompts, max_new_tokens, on_token)
    images = prompts.image.tolist()
    targets = [state for row in rows for state in row.targets]
    if not targets:
        return [_answer_without_masks(model, batch, image, row) for image, row in zip(images, rows, strict=True)]
    counts = [len(row.targets) for row in rows]
    row_of_target = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)], device=model.device)
    states = TargetStates(
        unrolled=prompts.unrolled,
        seg_places=None,
        image_places=prompts.image_places[row_of_target],
        image=prompts.image[row_of_target],
        images=image_tokens,
        groups=images,
        counts=counts,
        written=torch.stack(targets),
    )
    prompt = model.system.prompt(model, states, batch, layer)
    masks = model.masks(batch, states, prompt)
    layers, scores = iter(prompt.layers.tolist()), iter(torch.cat([mask_scores(each) for each in masks]).tolist())
    return [
        Answer(
            token_ids=row.token_ids,
            seg_indices=row.seg_indices,
            mask_logits=masks[index],
            layers=list(islice(layers, counts[index])),
            similarity_maps=prompt.maps[index] if prompt.maps and row.targets else None,
            mask_scores=list(islice(scores, counts[index])),
            rej_indices=written_at(row.token_ids, model.config.rej_token_ids),
        )
        for index, row in enumerate(rows)
    ]


def written_at(token_ids: list[int], target: list[int]) -> list[int]:
    """Where the tokens of a target stand one after the other: the index of the first of them, for every time."""
    places, place = [], 0
    while target and place <= len(token_ids) - len(target):
        found = token_ids[place : place + len(target)] == list(target)
        if found:
            places.append(place)
        place += len(target) if found else 1
    return places


def mask_scores(logits: Tensor) -> Tensor:
    """[n]: mean probability of the predicted foreground of each mask [n, H, W] (PixelLM's mask score)."""
    inside = logits > 0
    total = (logits.sigmoid() * inside).sum(dim=(1, 2))
    return total / (inside.sum(dim=(1, 2)) + 1e-6)


def _write_all(
    model: GroundingModel,
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
    rows: list[WrittenRow] = []
    while len(rows) < total:
        chosen = slice(len(rows), min(total, len(rows) + size))

        def tell(index: int, number: int, token: int, first: int = chosen.start) -> None:
            if on_token is not None and number == told[first + index]:
                told[first + index] += 1
                on_token(first + index, token)

        try:
            rows += _write(model, prompts, chosen, max_new_tokens, tell)
            continue
        except Exception as error:
            failed = chosen.stop - chosen.start
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
    return rows


def _prompts_that_fit(model: GroundingModel, prompts: ReadPrompts, max_new_tokens: int) -> int:
    """How many prompts may write at a time so that their longest answers take `SHARE_OF_FREE` at most; at least 1."""
    free = free_memory(model.device)
    if free is None:
        return len(prompts.row)
    return max(1, int(SHARE_OF_FREE * free) // bytes_of_a_prompt(prompts.cache, max_new_tokens))


def _write(
    model: GroundingModel,
    prompts: ReadPrompts,
    chosen: slice,
    max_new_tokens: int,
    on_token: Callable[[int, int, int], None],
) -> list[WrittenRow]:
    """Write until every answer to the chosen prompts has ended.

    on_token(number of the answer, number of the token, token id) is called as tokens are written.
    """
    seg_ids = list(model.config.seg_token_ids)
    rows = [WrittenRow() for _ in prompts.row[chosen]]
    positions, last = prompts.positions[chosen], [states[chosen] for states in prompts.last]
    with _writer(model.language_model, prompts, chosen) as write:
        for written in range(1, max_new_tokens + 1):
            ids = model.lm_head(last[-1]).argmax(dim=-1)
            for index, token in enumerate(ids.tolist()):
                row = rows[index]
                row.ended = row.ended or token == model.config.text_config.eos_token_id
                if not row.ended:
                    row.append(token, lambda i=index, s=last: torch.stack([layer[i] for layer in s]), seg_ids)
                    on_token(index, len(row.token_ids) - 1, token)
            if written == max_new_tokens or all(row.ended for row in rows):
                break
            positions = positions + 1
            last = write(ids, positions)
    return rows


@contextmanager
def _writer(
    language_model: LlamaModel, prompts: ReadPrompts, chosen: slice
) -> Iterator[Callable[[Tensor, Tensor], list[Tensor]]]:
    """Gives what reads the next token of the chosen prompts: from ids [R], positions [R, 1] to L+1 states [R, D]."""

    def read(ids: Tensor, *arguments, **context) -> list[Tensor]:
        states = unroll(language_model, language_model.embed_tokens(ids.unsqueeze(1)), *arguments, **context)
        return [layer[:, -1] for layer in states]

    row, seen = prompts.row[chosen], prompts.seen[chosen]
    if row == prompts.row == list(range(prompts.cache.rows)):
        cache = WrittenCache.continuing(prompts.cache)
        takes_lengths = language_model.config._attn_implementation == "flash_attention_2"

        def write(ids: Tensor, positions: Tensor) -> list[Tensor]:
            nonlocal seen
            seen = F.pad(seen, (0, 1), value=True)
            return read(ids, seen if takes_lengths else seen[:, None, None], positions, cache)

        yield write
        return
    cache, shared = WrittenCache.beside(prompts.cache, len(row)), SharedRows(prompts.cache, row, seen)
    with attending_to_shared_rows(language_model):
        yield lambda ids, positions: read(ids, None, positions, cache, shared=shared)


def _answer_without_masks(model: GroundingModel, batch: Batch, image: int, row: WrittenRow) -> Answer:
    empty = torch.zeros((0, *batch.original_sizes[image]), device=batch.input_ids.device)
    return Answer(
        token_ids=row.token_ids,
        seg_indices=[],
        mask_logits=empty,
        layers=[],
        similarity_maps=None,
        mask_scores=[],
        rej_indices=written_at(row.token_ids, model.config.rej_token_ids),
    )
