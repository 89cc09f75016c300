"""The actions of the Ground tab, without widgets: look at an image, ask, segment again from another layer.

Each changes a `Visit`, which the page is drawn from. Errors become sentences in it, never exceptions.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dashboard.context import Context, Stopped, Waiting, read_upload
from dashboard.exchanges import Exchange, Visitor
from dashboard.visit import Attempt, Visit
from groundscore.errors import UserError
from inference.limits import check_prompt
from inference.reply import LayerChoice

log = logging.getLogger(__name__)

UNEXPECTED = "An internal error occurred; the program's log has the details. Please try again."
FIRST_VISITOR = "the example that is answered already"


@dataclass(frozen=True)
class LayerOptions:
    """Which hidden states a model can prompt from. last: index of the last; policy: whether it has one, and trained:
    whether training used it; default: the rule that `app.py --layer` named, else the checkpoint's own."""

    last: int
    policy: bool
    trained: bool
    default: LayerChoice


class Grounding:
    """The actions of the Ground tab; holds no state of a visitor, only the example that every visit begins with."""

    def __init__(self, context: Context):
        self.context = context
        self._first: Exchange | None = None
        self._preparing: threading.Thread | None = None
        self._lock = threading.Lock()

    # --- what the model can do ---------------------------------------------------------------------------------------

    def layer_options(self) -> LayerOptions:
        """Which layers the loaded model can be asked for; raises `UserError` until it is loaded."""
        session = self.context.model.get()
        model = session.model
        return LayerOptions(
            last=model.config.num_layers - 1,
            policy=model.system.uses_policy,
            trained=model.config.mode != 1,
            default=model.system.layer_rule(session.layer),
        )

    def takes_spots(self) -> bool:
        """Whether the model's mask decoder takes points and boxes."""
        if not self.context.model.ready:
            return False
        from inference.corrections import takes_spots

        return takes_spots(self.context.model.get())

    def layer(self, wish: LayerChoice) -> LayerChoice:
        """The layer chosen by the widgets, or None (the default) if there is no choice."""
        return wish if self.context.model.ready and self.layer_options().policy else None

    # --- the first sight ---------------------------------------------------------------------------------------------

    def prepare(self) -> bool:
        """Have the first example answered, once for all visits; whether that has ended."""
        with self._lock:
            if self._preparing is None:
                self._preparing = threading.Thread(target=self._answer_example, name="first example", daemon=True)
                self._preparing.start()
        return not self._preparing.is_alive()

    def _answer_example(self) -> None:
        """Where it fails, visits begin empty."""
        visit, example = Visit.begin(self.context.folder), self.context.examples[0]
        for _ in self.ask(FIRST_VISITOR, visit, str(example.image), example.question):
            pass
        if visit.exchange is None:
            log.warning("the first example has no answer: %s", visit.attempt and visit.attempt.problem)
        self._first = visit.exchange

    def welcome(self, visit: Visit) -> bool:
        """Begin a visit in which nothing was done yet with the example and its answer; whether there is one."""
        if self._first is None or visit.visitor.number or visit.moves or visit.attempt is not None:
            return False
        visit.show(visit.visitor.adopt(self._first))
        return True

    # --- what a visitor does -----------------------------------------------------------------------------------------

    def look_at(self, visit: Visit, upload: str | None) -> None:
        """Show another image, without masks; what is wrong with it is said now."""
        try:
            visit.look_at(None if upload is None else self.read(visit, upload))
        except Exception as error:
            visit.look_at(None)
            if visit.attempt is None:
                visit.attempt = Attempt("")
                visit.attempt.end(problem=sentence(error))

    def read(self, visit: Visit, upload: str | None) -> np.ndarray:
        """The visitor's image. Its file goes with the visitor; the examples, of which copies are served, stay."""
        image = read_upload(upload, self.context.limits)
        path = Path(upload)
        below = path.resolve().is_relative_to(self.context.folder.resolve())
        if below and path.name not in {example.image.name for example in self.context.examples}:
            visit.visitor.uploads.add(path)
        return image

    def ask(
        self,
        who: str,
        visit: Visit,
        upload: str | None,
        prompt: str | None,
        *,
        layer: LayerChoice = None,
        follow_up: bool = False,
    ) -> Iterator[bool]:
        """Asks, and yields after every change of the visit whether more than its conversation changed.

        who: names the visitor's browser tab, for stopping. follow_up: show the model the earlier questions about the
        same image, too. Answered, the exchange is shown, unless the visitor has moved on meanwhile.
        """
        moves = visit.moves
        attempt = visit.attempt = Attempt((prompt or "").strip()[: self.context.limits.prompt], visit.preview)
        try:
            yield False
            session = self.context.model.get()
            question = check_prompt(prompt, self.context.limits)
            image = self.read(visit, upload)
            earlier = _earlier(visit.visitor, image) if follow_up else ()
            reply = None
            for step in self.context.answers.run(
                who,
                lambda on_text: session.ask(image, earlier, question, on_text=on_text, layer=layer),
                self.context.limits.targets_of(image.shape[:2]),
            ):
                if isinstance(step, Waiting):
                    attempt.stage = step.stage
                elif isinstance(step, str):
                    attempt.text = step
                    attempt.stage = "Writing the answer" if step else "Reading the image and the question"
                else:
                    reply = step
                    break
                yield False
            if visit.attempt is not attempt:  # cleared while the last word was on its way
                return
            exchange = visit.visitor.keep(
                image, reply, source=Path(upload), layer=layer, earlier=earlier, most=self.context.limits.history
            )
            visit.attempt = None
            if visit.moves == moves:
                visit.show(exchange)
            yield visit.moves == moves
        except Stopped:
            attempt.end(note="Stopped.")
            yield False
        except Exception as error:
            attempt.end(problem=sentence(error))
            yield False

    def open(self, visit: Visit, number: int) -> Exchange | None:
        """Show an earlier exchange with its image; None where there is no such exchange."""
        exchange = visit.visitor.numbered(number)
        if exchange is not None:
            visit.open(exchange)
        return exchange

    def segment_again(self, who: str, visit: Visit, layer: LayerChoice) -> bool:
        """Give the shown answer masks from another layer; whether anything changed."""
        exchange = visit.exchange
        if exchange is None or not exchange.targets or exchange.layer == layer or exchange.spotted:
            return False
        try:
            session, before, image = self.context.model.get(), exchange.reply(), exchange.image()
            *_, reply = self.context.answers.run(
                who, lambda _: session.segment_again(image, exchange.earlier, before, layer)
            )
            visit.corrections = [each for each in visit.corrections if each.number != exchange.number]
            visit.visitor.replace(exchange, reply, layer)
        except Stopped:
            return False
        except Exception as error:
            visit.attempt = Attempt("")
            visit.attempt.end(problem=sentence(error))
        return True


def sentence(error: Exception) -> str:
    """The sentence that a visitor sees for an error; unexpected errors are logged."""
    if isinstance(error, UserError):
        return str(error)
    log.error("in the dashboard", exc_info=error)
    return UNEXPECTED


def _earlier(visitor: Visitor, image: np.ndarray) -> tuple:
    """The turns of the last exchanges without a break about this very image."""
    turns = []
    for exchange in reversed(visitor.exchanges):
        if exchange.size != image.shape[:2] or not np.array_equal(exchange.image(), image):
            break
        if not exchange.spotted:
            turns.append(exchange.turn)
    return tuple(reversed(turns))
