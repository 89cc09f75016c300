"""The images of a split as batches for the model, read ahead by worker processes.

Legend: I images, E expressions of an image, Q targets of given answers, H W pixels.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from checkpoints.processing import GroundingProcessor
from dataloaders.batching.batch import Batch
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample
from evaluation.questions import Protocol, Questions, ask
from groundscore.annotations.bad_entries import Repair, Tolerance
from groundscore.errors import UserError
from groundscore.splits import EvaluationItem, LeftOut, read_item
from groundscore.splits.wording import worded


@dataclass
class Part:
    """Some expressions of one image, or all of them, with what their masks are compared with.

    number: the item's index in the split; total: how many expressions it has.
    image: its path; index: the entry's index in its file, where an image may occur more than once.
    refs [E], objects [E], exists [E]: as in `EvaluationItem`.
    truth bool [E, H, W]; for MUSE the targets of all questions, [ΣT, H, W], and `targets` [E] how many each has.
    ignore: bool [H, W] or None. kinds [E]: see `EvaluationItem.query_kinds`. data: see `digest_of`. repairs: of the
    item.
    """

    number: int
    total: int
    image: str
    index: int | None
    questions: Questions
    refs: list[int]
    objects: list[int | None]
    exists: list[bool]
    truth: Tensor
    targets: list[int]
    ignore: Tensor | None
    kinds: list[tuple[str, ...]]
    data: str
    repairs: tuple[Repair, ...] = ()

    @property
    def name(self) -> str:
        """The image and its item, for errors."""
        return f"{self.image} (item {self.number})"

    def truth_of(self, expression: int) -> Tensor:
        """bool [H, W]: all targets of the part's n-th expression."""
        first = sum(self.targets[:expression])
        return self.truth[first : first + self.targets[expression]].any(0)


@dataclass
class Work:
    """A batch for the model and its images' parts.

    decided int64 [Q]: flat positions in the rows at which the model chooses between `[SEG]` and `[REJ]`, for all
    targets of all parts; empty for generation.
    """

    batch: Batch
    parts: list[Part]
    decided: Tensor

    def to(self, device: torch.device) -> "Work":
        """Returns the same on a device; masks of the parts stay where they are."""
        return Work(self.batch.to(device), self.parts, self.decided.to(device, non_blocking=True))

    def pin_memory(self) -> "Work":
        """`DataLoader` calls this."""
        for part in self.parts:
            part.truth = part.truth.pin_memory()
            part.ignore = None if part.ignore is None else part.ignore.pin_memory()
        return Work(self.batch.pin_memory(), self.parts, self.decided.pin_memory())


class Batches(IterableDataset):
    """Batches of the images `numbers` of a split; with several workers each takes a share of them.

    tolerance: which items may be left out; each comes as a `LeftOut` of its own, among the batches.
    images: most images of a batch. expressions: most expressions of a batch; an image with more is taken in parts,
    unless one question asks for all of them. context: the longest conversation that the model reads, in tokens.
    """

    def __init__(
        self,
        items: Sequence[EvaluationItem],
        numbers: Sequence[int],
        processor: GroundingProcessor,
        protocol: Protocol,
        *,
        root: Path,
        tolerance: Tolerance,
        images: int,
        expressions: int,
        context: int,
    ):
        self.items, self.numbers, self.protocol, self.root = items, numbers, protocol, root
        self.context, self.tolerance = context, tolerance
        self.images, self.expressions = images, expressions
        # Every expression counts: none is dropped for its length, none refused for a mask that training would not take.
        self.collate = Collator(
            processor,
            padding_side="right" if protocol.answer == "given" else "left",
            max_length=None,
            check_masks=False,
        )

    def halved(self, done: Set[int]) -> "Batches | None":
        """Returns the images that are not done, half as many at a time; None if it is one at a time already."""
        if self.images == self.expressions == 1:
            return None
        smaller = copy.copy(self)
        smaller.numbers = [number for number in self.numbers if number not in done]
        smaller.images, smaller.expressions = -(-self.images // 2), -(-self.expressions // 2)
        return smaller

    def __iter__(self) -> Iterator[Work | LeftOut]:
        worker = get_worker_info()
        numbers = self.numbers if worker is None else self.numbers[worker.id :: worker.num_workers]
        samples: list[Sample] = []
        parts: list[Part] = []
        rows = 0
        for number in numbers:
            item = read_item(self.items, number, self.tolerance, self.root)
            if isinstance(item, LeftOut):
                yield item
                continue
            check_item(item)
            for expressions in self._chunks(item):
                if samples and (len(samples) >= self.images or rows + len(expressions) > self.expressions):
                    yield self._work(samples, parts)
                    samples, parts, rows = [], [], 0
                questions = ask(item, self.protocol, expressions)
                parts.append(self._part(item, number, questions))
                samples.append(_sample(item, questions))
                rows += len(expressions)
        if samples:
            yield self._work(samples, parts)

    def _chunks(self, item: EvaluationItem) -> Iterator[list[int]]:
        total = len(item.expressions)
        size = total if self.protocol.asks_together(item) else self.expressions
        for start in range(0, total, size):
            yield list(range(start, min(total, start + size)))

    def _part(self, item: EvaluationItem, number: int, questions: Questions) -> Part:
        chosen = questions.expressions
        if questions.separate:
            masks = [item.target_masks[each] for each in chosen]
            truth, targets = np.concatenate(masks), [len(each) for each in masks]
        else:
            truth, targets = item.masks[chosen], [1] * len(chosen)
        return Part(
            number=number,
            total=len(item.expressions),
            image=item.path_below(self.root),
            index=item.index,
            questions=questions,
            refs=[item.ref_ids[each] for each in chosen],
            objects=[item.objects[each] for each in chosen],
            exists=[bool(item.exists[each]) for each in chosen],
            truth=torch.from_numpy(truth != 0),
            targets=targets,
            ignore=None if item.ignore is None else torch.from_numpy(np.array(item.ignore, dtype=bool)),
            kinds=[item.query_kinds(each) for each in chosen],
            data=digest_of(item),
            repairs=item.repairs,
        )

    def _work(self, samples: list[Sample], parts: list[Part]) -> Work:
        batch = self.collate(samples)
        longest = int(batch.position_ids.max()) + 1
        if longest > self.context:
            raise UserError(
                f"a question of {longest} tokens (image tokens included) is longer than the {self.context} that the "
                f"checkpoint reads, about one of {', '.join(part.name for part in parts)}; try --expressions single"
            )
        if self.protocol.answer == "generated":
            return Work(batch, parts, torch.zeros(0, dtype=torch.int64))
        return _without_repeated_targets(batch, parts)


class DigestedItems(Dataset):
    """Pairs of number and digest of the items of a split; the digest of an item that is left out is empty."""

    def __init__(self, items: Sequence[EvaluationItem], tolerance: Tolerance, root: Path):
        self.items, self.tolerance, self.root = items, tolerance, root

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[int, str]:
        item = read_item(self.items, number, self.tolerance, self.root)
        return number, "" if isinstance(item, LeftOut) else digest_of(item)


def digest_of(item: EvaluationItem) -> str:
    """A digest of what the counts of an item depend on: the image, the questions, and the true masks."""
    digest = hashlib.blake2b(digest_size=16)
    words = worded(item)
    texts = [item.expressions, words.prompts, words.answers, words.joint_prompt, words.joint_answer]
    digest.update(json.dumps([texts, [bool(each) for each in item.exists], item.image.shape]).encode())
    digest.update(np.ascontiguousarray(item.image))
    for masks in (item.masks, *(item.target_masks or ()), *(() if item.ignore is None else (item.ignore,))):
        digest.update(np.packbits(masks != 0))
    return digest.hexdigest()


def check_item(item: EvaluationItem) -> None:
    """Raises `UserError` for masks of another size than their image."""
    size = item.image.shape[:2]
    stacks = [item.masks, *(item.target_masks or ())]
    if item.ignore is not None:
        stacks.append(item.ignore[None])
    for masks in stacks:
        if masks.ndim != 3 or masks.shape[1:] != size:
            raise UserError(
                f"{item.dataset}|{item.split}: {item.image_path} is {size[0]} x {size[1]} pixels, but its masks are "
                f"{' x '.join(map(str, masks.shape[1:]))}; the annotations belong to another version of the image"
            )


def _sample(item: EvaluationItem, questions: Questions) -> Sample:
    """The conversations as a sample; its masks stand for the number of targets only."""
    again = sum(target.read_again for target in questions.targets)
    masks = np.broadcast_to(np.uint8(0), (len(questions.targets) + again, *item.image.shape[:2]))
    conversations = questions.with_seg + questions.as_given
    return Sample(item.image_path, item.image, conversations, masks, None, "evaluation", item.dataset)


def _without_repeated_targets(batch: Batch, parts: list[Part]) -> Work:
    """Returns the batch with the targets of `with_seg` alone, and the positions where the model's choice is read."""
    seg = iter(range(len(batch.seg_positions)))
    rej = iter(range(len(batch.rej_positions)))
    kept, decided, kinds = [], [], []
    for part, of_image in zip(parts, batch.target_is_seg, strict=True):
        targets = part.questions.targets
        first = [next(seg) for _ in targets]
        # Positions of the repeated answers, in written order.
        again = iter(
            [
                batch.seg_positions[next(seg), 0] if is_seg else batch.rej_positions[next(rej), 0]
                for is_seg in of_image[len(targets) :]
            ]
        )
        decided += [
            next(again) if target.read_again else batch.seg_positions[index, 0]
            for target, index in zip(targets, first, strict=True)
        ]
        kept += first
        kinds.append([True] * len(targets))
    batch = replace(
        batch,
        seg_positions=batch.seg_positions[kept],
        seg_image=batch.seg_image[kept],
        rej_positions=batch.rej_positions[:0],
        rej_image=batch.rej_image[:0],
        target_is_seg=kinds,
        masks=[torch.zeros((len(each), 0, 0), dtype=torch.bool) for each in kinds],
        ignore=[None] * len(parts),
    )
    return Work(batch, parts, torch.stack(decided) if decided else torch.zeros(0, dtype=torch.int64))
