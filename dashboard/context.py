"""What the tabs share: limits, the model, which loads in the background, and its answers, one at a time."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from groundscore.annotations.images import read_image
from groundscore.drawing import split_targets
from groundscore.errors import UserError
from inference.background import BackgroundModel
from inference.limits import Limits


def read_upload(path: str | None, limits: Limits) -> np.ndarray:
    """A visitor's image as uint8 RGB [H, W, 3], at most `limits.work_pixels` large.

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
    return shrink(image, limits.work_pixels)


def shrink(image: np.ndarray, pixels: int) -> np.ndarray:
    """The image, scaled down to at most `pixels` pixels with its aspect ratio."""
    height, width = image.shape[:2]
    if height * width <= pixels:
        return image
    scale = (pixels / (height * width)) ** 0.5
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


class Stopped(Exception):
    """The visitor, or a limit, ended an answer."""


@dataclass
class Answering:
    """A running answer: its text so far, and whether to stop."""

    text: str = ""
    stop: threading.Event = field(default_factory=threading.Event)


class Answerer:
    """Runs one answer at a time on the model, each in its own thread.

    A visitor is named by a string; a new answer of the same visitor stops the one before.
    """

    def __init__(self, max_targets: int):
        self._max_targets = max_targets
        self._model_lock = threading.Lock()
        self._running: dict[str, Answering] = {}
        self._announced: dict[str, Answering] = {}
        self._running_lock = threading.Lock()

    def run(self, visitor: str, work: Callable[[Callable[[str], None]], Any]) -> Iterator[str | Any]:
        """Yields the text so far as it grows, then the value of `work(on_text)`.

        `work` runs the model and passes pieces of text to `on_text`. Closing the iterator, `stop` and too many
        targets end it: the first two by `Stopped`, the last by `UserError`.
        """
        with self._running_lock:
            answering = self._announced.pop(visitor, None) or Answering()
        events: queue.SimpleQueue = queue.SimpleQueue()

        def on_text(piece: str) -> None:
            if answering.stop.is_set():
                raise Stopped
            answering.text += piece
            if sum(number is not None for _, number in split_targets(answering.text)) > self._max_targets:
                raise UserError(f"The answer names more than {self._max_targets} targets and was stopped.")
            events.put((None, answering.text))

        def in_thread() -> None:
            try:
                with self._model_lock:
                    if answering.stop.is_set():
                        raise Stopped
                    events.put((None, ""))
                    events.put((True, work(on_text)))
            except BaseException as error:  # every end must reach the listener, or it would wait for ever
                events.put((False, error))

        with self._running_lock:
            before, self._running[visitor] = self._running.get(visitor), answering
        if before is not None:
            before.stop.set()
        threading.Thread(target=in_thread, name="answer", daemon=True).start()
        try:
            while True:
                done, event = events.get()
                if done is False:
                    raise event
                yield event
                if done:
                    return
        finally:
            answering.stop.set()
            with self._running_lock:
                if self._running.get(visitor) is answering:
                    del self._running[visitor]

    @property
    def idle(self) -> bool:
        """Whether no answer runs or waits."""
        return not self._running and not self._model_lock.locked()

    def announce(self, visitor: str) -> None:
        """Register a question that waits for its turn, so that it can be stopped."""
        with self._running_lock:
            self._announced[visitor] = Answering()

    def stop(self, visitor: str) -> None:
        """Stop the visitor's answer, whether it is running or waits for its turn."""
        with self._running_lock:
            for answering in (self._running.get(visitor), self._announced.get(visitor)):
                if answering is not None:
                    answering.stop.set()

    def forget(self, visitor: str) -> None:
        """Stop the answer of a visitor who has left, and drop its state."""
        self.stop(visitor)
        with self._running_lock:
            self._announced.pop(visitor, None)


@dataclass
class Context:
    """The shared state of a dashboard, passed to every tab.

    model: loads in the background and gives a `ChatSession`; None where no tab needs one.
    answers: runs everything that needs the model, one after the other.
    folder: the only place below which files of visitors are written; it is removed when the program ends.
    dataset_dir, runs_dir: where data and experiments are.
    """

    folder: Path
    limits: Limits
    model: BackgroundModel | None = None
    dataset_dir: Path = Path("dataset")
    runs_dir: Path = Path("runs")
    answers: Answerer = field(init=False)

    def __post_init__(self) -> None:
        self.answers = Answerer(self.limits.targets)
