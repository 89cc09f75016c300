"""The queue of the service: questions wait, and those that wait at the same time are answered together.

Nothing is delayed to make a batch larger: while one batch is answered, the next one gathers.
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from groundscore.errors import UserError
from groundscore.targets import SEG
from inference.background import BackgroundModel
from inference.limits import Limits
from inference.reply import LayerChoice, Question, Reply

log = logging.getLogger(__name__)

_FIRST_GUESS = 2.0  # seconds of a question, before there was one


class TooBusy(UserError):
    """As many questions wait as may. seconds: when to come back."""

    def __init__(self, seconds: int):
        super().__init__(f"too many questions are waiting; come back in {seconds} s")
        self.seconds = seconds


class GivenUp(Exception):
    """Nobody waits for the answer any more."""


@dataclass(eq=False)
class Ticket:
    """A question that waits or is being answered.

    on_text: is called with the pieces of the answer, in the desk's thread. reply: the answer or the error, once it is
    there.
    """

    question: Question
    layer: LayerChoice
    on_text: Callable[[str], None] | None = None
    reply: "Future[Reply]" = field(default_factory=Future)
    told: str = ""

    @property
    def pixels(self) -> int:
        """Of the image."""
        return self.question.image.shape[0] * self.question.image.shape[1]

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        if not self.reply.done():
            _settle(self.reply, error=GivenUp())

    def hear(self, text: str) -> None:
        """Pass on what is new of the answer so far, which may have been begun again."""
        if self.on_text and text.startswith(self.told) and text != self.told:
            piece, self.told = text[len(self.told) :], text
            self.on_text(piece)


class Desk:
    """Answers questions in a thread of its own, in the order in which they came."""

    def __init__(self, model: BackgroundModel, limits: Limits):
        self.model, self.limits = model, limits
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []
        self._answering = 0
        self._pace = _FIRST_GUESS  # seconds that a question takes, lately
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="service", daemon=True)

    def start(self) -> "Desk":
        """Begins to answer; returns itself."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Ends; questions that wait are given up."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._changed.notify()
        for ticket in left:
            ticket.give_up()

    @property
    def waiting(self) -> int:
        """Questions that wait for their turn."""
        return len(self._waiting)

    @property
    def seconds(self) -> int:
        """When a question that came now would be answered, by the pace of the latest ones."""
        return max(1, math.ceil(self._pace * (len(self._waiting) + self._answering)))

    def ask(self, question: Question, layer: LayerChoice, on_text: Callable[[str], None] | None = None) -> Ticket:
        """Adds a question to the queue; raises `UserError` for a layer that the model has not, `TooBusy`, or while
        there is no model."""
        self.model.get().model.system.layer_rule(layer)
        ticket = Ticket(question, layer, on_text)
        with self._changed:
            pixels = ticket.pixels + sum(each.pixels for each in self._waiting)
            full = pixels > self.limits.waiting_pixels and self._waiting
            if full or len(self._waiting) >= self.limits.waiting:
                raise TooBusy(self.seconds)
            self._waiting.append(ticket)
            self._changed.notify()
        ticket.reply.add_done_callback(lambda _: self._leave(ticket))
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        """Who has given up waits no more."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def _work(self) -> None:
        while (together := self._next()) is not None:
            with self.model.busy:
                self._answer(together)
            self._answering = 0

    def _next(self) -> list[Ticket] | None:
        """The oldest question and others with its layer; None once the desk is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            chosen, pixels = [], 0
            for ticket in self._waiting:
                pixels += ticket.pixels if ticket.layer == self._waiting[0].layer else 0
                if chosen and (len(chosen) == self.limits.together or pixels > self.limits.batch_pixels):
                    break
                if ticket.layer == self._waiting[0].layer:
                    chosen.append(ticket)
            self._waiting = [each for each in self._waiting if each not in chosen]
            self._answering = len(chosen)
            return chosen

    def _answer(self, tickets: Sequence[Ticket]) -> None:
        """Settles every ticket: what is wrong with one costs that one only."""
        while tickets := [ticket for ticket in tickets if not ticket.reply.done()]:
            try:
                replies = self._ask(tickets)
            except _Ended:
                continue  # with those that are left
            except UserError as error:
                if len(tickets) == 1:
                    _settle(tickets[0].reply, error=error)
                else:
                    for ticket in tickets:
                        self._answer([ticket])
                continue
            except Exception as error:
                log.exception("answering %d questions", len(tickets))
                for ticket in tickets:
                    _settle(ticket.reply, error=error)
                continue
            self._pace += 0.3 * (replies[0].seconds - self._pace)
            for ticket, reply in zip(tickets, replies, strict=True):
                _settle(ticket.reply, reply)

    def _ask(self, tickets: Sequence[Ticket]) -> list[Reply]:
        said = [""] * len(tickets)

        def on_text(index: int, piece: str) -> None:
            ticket = tickets[index]
            said[index] += piece
            if ticket.reply.done():
                if all(each.reply.done() for each in tickets):
                    raise _Ended
                return
            ticket.hear(said[index])
            targets = said[index].count(SEG)
            most = self.limits.targets_of(ticket.question.image.shape[:2])
            if targets > most:
                _settle(ticket.reply, error=UserError(f"the answer names more than {most} targets and was stopped"))
                raise _Ended

        questions = [ticket.question for ticket in tickets]
        return self.model.get().ask_all(questions, layer=tickets[0].layer, on_text=on_text)


class _Ended(Exception):
    """A question of the batch is over; the others are to be answered without it."""


def _settle(reply: "Future[Reply]", value: Reply | None = None, *, error: Exception | None = None) -> None:
    """Gives a future its value or error, unless it has one: its listener may have given up at the same moment."""
    try:
        if error is None:
            reply.set_result(value)
        else:
            reply.set_exception(error)
    except InvalidStateError:
        pass
