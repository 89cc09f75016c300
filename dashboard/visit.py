"""The state of one visit: everything that the Ground tab shows at a moment, so that it belongs together.

`grounding.py` changes it, `conversation.py` and `viewer.py` draw it. It lives in the visitor's own `gr.State`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dashboard.exchanges import Exchange, Visitor
from groundscore.drawing import size_within
from inference.spots import Spots

DISPLAY_SIDE = 1600  # pixels of what the page shows of an image


@dataclass(frozen=True)
class Preview:
    """An image as the page shows it: a JPEG that no side of is longer than `DISPLAY_SIDE`."""

    path: Path
    width: int
    height: int


@dataclass(eq=False)
class Attempt:
    """A question that has no answer yet, or got none.

    preview: of its image; text: of the answer so far; stage: what is going on, None once it has ended.
    note, problem: how it ended: "Stopped.", or what went wrong.
    """

    question: str
    preview: Preview | None = None
    text: str = ""
    stage: str | None = "Sending the question"
    note: str | None = None
    problem: str | None = None

    @property
    def running(self) -> bool:
        """Whether an answer is on its way."""
        return self.stage is not None

    def end(self, *, note: str | None = None, problem: str | None = None) -> None:
        """Mark it as ended without an answer."""
        self.stage, self.note, self.problem = None, note, problem


@dataclass(frozen=True)
class Correction:
    """A correction of one mask. number: of the exchange; target: index of the mask; spots: all that were given for it;
    before: the exchange as it was."""

    number: int
    target: int
    spots: Spots
    before: Exchange


@dataclass(eq=False)
class Visit:
    """What one page shows.

    preview: of the image that is asked about next; shown: number of the exchange whose masks lie on it, None for none.
    attempt: the question that runs, or the last one if it failed. moves: how often the visitor looked at something
    else; an answer that arrives after a move does not take the page away from the visitor. corrections: of masks, the
    latest last.
    """

    visitor: Visitor
    preview: Preview | None = None
    shown: int | None = None
    attempt: Attempt | None = None
    moves: int = 0
    corrections: list[Correction] = field(default_factory=list)
    previews: int = field(default=0, repr=False)

    @classmethod
    def begin(cls, below: Path) -> "Visit":
        """Returns a new visit with a folder of its own below `below`."""
        return cls(Visitor.arrive(below))

    @property
    def exchange(self) -> Exchange | None:
        """The exchange that is shown."""
        return self.visitor.numbered(self.shown)

    @property
    def stamp(self) -> tuple:
        """Differs from an earlier one where another event has changed what is shown."""
        return self.moves, self.shown, self.attempt, tuple(self.visitor.exchanges)

    def look_at(self, image: np.ndarray | None) -> None:
        """Show an image (uint8 RGB [H, W, 3]) without masks, None for none."""
        self.moves += 1
        self.shown = None
        if self.attempt is not None and not self.attempt.running:
            self.attempt = None
        self.preview = None if image is None else self._draw(image)

    def open(self, exchange: Exchange) -> None:
        """Show an exchange: its image, its masks."""
        self.moves += 1
        self.show(exchange)

    def show(self, exchange: Exchange) -> None:
        """Show the exchange that was just answered."""
        self.shown = exchange.number
        self.preview = self._draw(exchange.image())

    def spots_of(self, number: int, target: int) -> Spots:
        """The points and the box that were given for a mask so far."""
        given = (each.spots for each in reversed(self.corrections) if (each.number, each.target) == (number, target))
        return next(given, Spots())

    @property
    def can_undo(self) -> bool:
        """Whether a mask that is shown was corrected."""
        return any(each.number == self.shown for each in self.corrections)

    def undo(self) -> bool:
        """Take the latest correction of the exchange that is shown back; whether there was one."""
        exchange = self.exchange
        last = next((each for each in reversed(self.corrections) if each.number == self.shown), None)
        if exchange is None or last is None:
            return False
        self.corrections.remove(last)
        self.visitor.restore(exchange, last.before)
        return True

    def clear(self) -> None:
        """Show nothing; the conversation stays, a question that runs is dropped."""
        self.attempt = None
        self.look_at(None)

    def forget(self) -> None:
        """Remove everything that was asked and sent."""
        self.clear()
        self.corrections.clear()
        self.visitor.forget()

    def leave(self) -> None:
        """Remove everything that is the visitor's."""
        self.visitor.leave()

    def _draw(self, image: np.ndarray) -> Preview:
        """A JPEG under an address that no browser has cached; the one before it may still be on its way, older go."""
        folder = self.visitor.folder / "previews"
        folder.mkdir(exist_ok=True)
        self.previews += 1
        for old in folder.iterdir():
            if int(old.stem) < self.previews - 1:
                old.unlink(missing_ok=True)
        small = Image.fromarray(image)
        size = size_within(image, DISPLAY_SIDE, enlarge=False)
        if size != small.size:
            small = small.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
        path = folder / f"{self.previews}.jpg"
        small.save(path, quality=92)
        return Preview(path, *small.size)
