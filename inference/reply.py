"""What a model answered: text and masks, as every front end gets it. Light to import: no torch."""

from dataclasses import dataclass

import numpy as np

from dataloaders.sample import Turn

LayerChoice = int | str | None


@dataclass
class Reply:
    """What the model answered.

    prompt, text: the question and the answer, with `[SEG]` (or `[REJ]`) written once per target, whatever the system.
    masks: bool [n, H, W], one per `[SEG]` in order; scores [n] in [0, 1]: how sure SAM is of each.
    layers [n]: which hidden state prompted each mask; maps: float32 [n, H, W] in [0, 1], the similarity maps there,
        or None where the system has none.
    complete: False if the answer was cut off by the limit on its length.
    """

    prompt: str
    text: str
    masks: np.ndarray
    scores: list[float]
    layers: list[int]
    maps: np.ndarray | None
    tokens: int
    complete: bool
    seconds: float

    @property
    def turn(self) -> Turn:
        """For the history of the next question."""
        return Turn(self.prompt, self.text)

    @property
    def remark(self) -> str | None:
        """What the user should be told when something, or everything, was not found, else None."""
        if len(self.masks) == 0:
            if "[REJ]" in self.text:
                return "Nothing was found: the answer says that it is not in the image."
            return "Nothing was segmented: the answer names no target."
        found = self.masks.any(axis=(1, 2))
        if not found.any():
            return "Nothing was found: every mask is empty."
        if not found.all():
            empty = ", ".join(f"[SEG {number}]" for number, each in enumerate(found, start=1) if not each)
            return f"Nothing was found for {empty}: the mask is empty."
        return None
