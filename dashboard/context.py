"""What the tabs share: limits, the model, which loads in the background, and its answers, one at a time."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dashboard.examples import EXAMPLES, Example
from groundscore.annotations.images import read_image
from groundscore.drawing import split_targets
from groundscore.errors import UserError
from inference.background import BackgroundModel
from inference.limits import Limits


def read_upload(path: str | None, limits: Limits) -> np.ndarray:
    """A visitor's image as uint8 RGB [H, W, 3], upright, of the size that it has.

    Errors never name the file's place on the server.
    """
    if not path:
        raise UserError("Please choose an image first.")
    try:
        if Path(path).stat().st_size > limits.upload_mb * 2**20:
            raise UserError(f"The image's file is larger than {limits.upload_mb} MB.")
        image = read_image(path, pixels=limits.pixels, missing="choose another one")
    except OSError:
        raise UserError("The image could not be read. Please upload it again.") from None
    except UserError as error:
        raise UserError(str(error).replace(f"image {path}", "The image").replace(path, "The image")) from None
    return image


class Stopped(Exception):
    """The visitor, or a limit, ended an answer."""


@dataclass(frozen=True)
class Waiting:
    """A sign of life from an answer that has nothing new to show.

    before: questions of other visitors that come first, None once the model has this one; seconds: since it was asked;
    text: of the answer so far.
    """

    before: int | None
    seconds: float
    text: str = ""

    @property
    def stage(self) -> str:
        """What is going on, for the visitor."""
        if self.before:
            others = "1 question comes" if self.before == 1 else f"{self.before} questions come"
            doing = f"In the queue: {others} before yours"
        elif self.before == 0:
            doing = "Next in the queue"
        else:
            doing = "Writing the answer and its masks" if self.text else "Reading the image and the question"
        return f"{doing} · {self.seconds:.0f} s"


@dataclass(eq=False)
class Answering:
    """A running answer: its text so far, whether to stop, and what its listener has not heard yet."""

    text: str = ""
    began: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    events: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    asked: float = field(default_factory=time.monotonic)

    def end(self) -> None:
        """Stop; the listener hears of it at once, the model at its next word."""
        self.stop.set()
        self.events.put((False, Stopped()))


class Answerer:
    """Runs one answer at a time on the model, first come, first served, each in its own thread.

    A visitor is named by a string; a new answer of the same visitor stops the one before.
    max_targets: masks of one answer; max_waiting: answers that may wait, None for any number; busy: held by whoever
    makes the model work.
    """

    HEARTBEAT = 0.5  # seconds

    def __init__(self, max_targets: int, max_waiting: int | None = None, busy: "threading.Lock | None" = None):
        self._max_targets, self._max_waiting = max_targets, max_waiting
        self._busy = busy or threading.Lock()
        self._line: list[Answering] = []  # the first one has the model
        self._running: dict[str, Answering] = {}
        self._announced: dict[str, Answering] = {}
        self._changed = threading.Condition()

    def run(
        self, visitor: str, work: Callable[[Callable[[str], None]], Any], max_targets: int | None = None
    ) -> Iterator[str | Waiting | Any]:
        """Yields the text so far as it grows, then the value of `work(on_text)`; `Waiting` where nothing is new.

        `work` runs the model and passes pieces of text to `on_text`. Closing the iterator, `stop` and too many
        targets end it: the first two by `Stopped`, the last by `UserError`, and so does a full queue.
        max_targets: where fewer may be named than usual.
        """
        most = self._max_targets if max_targets is None else max_targets
        answering = self._stand_in_line(visitor)
        threading.Thread(target=self._answer, args=(answering, work, most), name="answer", daemon=True).start()
        try:
            yield self._waiting(answering)
            while True:
                try:
                    done, event = answering.events.get(timeout=self.HEARTBEAT)
                except queue.Empty:
                    yield self._waiting(answering)
                    continue
                if done is False:
                    raise event
                yield event
                if done:
                    return
        finally:
            with self._changed:
                answering.stop.set()
                if self._running.get(visitor) is answering:
                    del self._running[visitor]
                self._changed.notify_all()

    def _stand_in_line(self, visitor: str) -> Answering:
        with self._changed:
            answering = self._announced.pop(visitor, None) or Answering()
            if self._max_waiting is not None and len(self._line) > self._max_waiting:
                wait = "1 question waits" if self._max_waiting == 1 else f"{self._max_waiting} questions wait"
                raise UserError(f"The queue is full: {wait}. Please try again in a moment.")
            before, self._running[visitor] = self._running.get(visitor), answering
            self._line.append(answering)
            if before is not None:
                before.end()
                self._changed.notify_all()
        return answering

    def _answer(self, answering: Answering, work: Callable[[Callable[[str], None]], Any], most: int) -> None:
        """Wait for one's turn, then do the work; its end, whatever it is, is the last event."""
        events = answering.events

        def on_text(piece: str) -> None:
            if answering.stop.is_set():
                raise Stopped
            answering.text += piece
            if sum(number is not None for _, number in split_targets(answering.text)) > most:
                for_size = "" if most == self._max_targets else ", the most for an image of this size,"
                raise UserError(f"The answer names more than {most} targets{for_size} and was stopped.")
            events.put((None, answering.text))

        try:
            with self._changed:
                while self._line[0] is not answering and not answering.stop.is_set():
                    self._changed.wait()
                if answering.stop.is_set():
                    raise Stopped
                answering.began = True
            events.put((None, ""))
            with self._busy:
                events.put((True, work(on_text)))
        except BaseException as error:  # every end must reach the listener, or it would wait for ever
            events.put((False, error))
        finally:
            with self._changed:
                self._line.remove(answering)
                self._changed.notify_all()

    def _waiting(self, answering: Answering) -> Waiting:
        with self._changed:
            waits = not answering.began and answering in self._line
            before = self._line.index(answering) if waits else None
        return Waiting(before, time.monotonic() - answering.asked, answering.text)

    @property
    def idle(self) -> bool:
        """Whether no answer runs or waits."""
        return not self._running and not self._line

    def announce(self, visitor: str) -> None:
        """Register a question that is on its way, so that it can be stopped."""
        with self._changed:
            self._announced[visitor] = Answering()

    def stop(self, visitor: str) -> None:
        """Stop the visitor's answer, whether it is running or waits for its turn."""
        with self._changed:
            for answering in (self._running.get(visitor), self._announced.get(visitor)):
                if answering is not None:
                    answering.end()
            self._changed.notify_all()

    def forget(self, visitor: str) -> None:
        """Stop the answer of a visitor who has left, and drop its state."""
        self.stop(visitor)
        with self._changed:
            self._announced.pop(visitor, None)


@dataclass
class Context:
    """The shared state of a dashboard, passed to every tab.

    model: loads in the background and gives a `ChatSession`; None where no tab needs one.
    answers: runs everything that needs the model, one after the other.
    folder: the only place below which files of visitors are written; it is removed when the program ends.
    dataset_dir, runs_dir: where data and experiments are. examples: that a visitor can try.
    """

    folder: Path
    limits: Limits
    model: BackgroundModel | None = None
    dataset_dir: Path = Path("dataset")
    runs_dir: Path = Path("runs")
    examples: Sequence[Example] = EXAMPLES
    answers: Answerer = field(init=False)

    def __post_init__(self) -> None:
        self.answers = Answerer(self.limits.targets, self.limits.waiting, self.model and self.model.busy)
