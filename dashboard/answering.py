"""One model, many visitors: answers run one after the other, each can be watched as it grows and be stopped."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from groundscore.errors import UserError
from utils.drawing import split_targets


class Stopped(Exception):
    """The visitor, or a limit, ended an answer."""


@dataclass
class Answering:
    """An answer on its way: what was written so far, and whether to stop."""

    text: str = ""
    stop: threading.Event = field(default_factory=threading.Event)


class Answerer:
    """Runs work on the model, one piece at a time, in threads that outlive no answer.

    A visitor is named by a string; a new answer of the same visitor stops the one before.
    """

    def __init__(self, max_targets: int):
        self._max_targets = max_targets
        self._model_lock = threading.Lock()
        self._running: dict[str, Answering] = {}
        self._announced: dict[str, Answering] = {}
        self._running_lock = threading.Lock()

    def run(self, visitor: str, work: Callable[[Callable[[str], None]], Any]) -> Iterator[str | Any]:
        """Yields the text so far as it grows, then what `work` returns.

        `work(on_text)` runs the model and hands over pieces of text. Closing the iterator, `stop` and too many
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
        """Whether nobody waits for the model and it does nothing."""
        return not self._running and not self._model_lock.locked()

    def announce(self, visitor: str) -> None:
        """The visitor has asked something that will be run in its turn; from now on it can be stopped."""
        with self._running_lock:
            self._announced[visitor] = Answering()

    def stop(self, visitor: str) -> None:
        """Stop the visitor's answer, whether it is running or waits for its turn."""
        with self._running_lock:
            for answering in (self._running.get(visitor), self._announced.get(visitor)):
                if answering is not None:
                    answering.stop.set()

    def forget(self, visitor: str) -> None:
        """The visitor has left: stop its answer and remember nothing of it."""
        self.stop(visitor)
        with self._running_lock:
            self._announced.pop(visitor, None)
