"""What a data set hands on: one image, the conversations about it, and a mask for every target.

A sample knows nothing of tokenizers, tensors or systems. `collate.py` turns samples into a `Batch`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groundscore.targets import target_kinds

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    `question` is what the user says, without the image placeholder.
    `answer` is what the assistant says, with `[SEG]` or `[REJ]` written once per target, whatever the system;
    None where the model is to answer.
    """

    question: str
    answer: str | None


@dataclass
class Sample:
    """One image with its conversations and targets.

    image_path: where the image came from.
    image: uint8 RGB [H, W, 3], decoded; with fewer pixels where `full_size` is given.
    conversations: each a tuple of turns; the image stands before the first question of every conversation.
    masks: uint8 [M, H, W] in {0, 1}, one per `[SEG]` or `[REJ]` of all answers, in the order in which they are
        written (conversation by conversation, turn by turn). A `[REJ]` has an empty mask.
    ignore: bool [H, W], pixels that neither loss nor metric may count, or None.
    family, dataset: where it was drawn from, e.g. "refer_seg" and "refcoco".
    expressions: what each target is called, in the order of `masks`; empty for a sample without targets.
    full_size: (H, W) of the masks, where the image was decoded smaller; None: they have the image's.
    """

    image_path: Path
    image: "np.ndarray"
    conversations: list[tuple[Turn, ...]]
    masks: "np.ndarray"
    ignore: "np.ndarray | None"
    family: str
    dataset: str
    expressions: tuple[str, ...] = ()
    full_size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the masks."""
        return self.full_size or self.image.shape[:2]

    @property
    def target_kinds(self) -> "np.ndarray":
        """For every target of all answers in order whether it is a `[SEG]`, bool [M]."""
        return target_kinds(" ".join(turn.answer or "" for turns in self.conversations for turn in turns))
