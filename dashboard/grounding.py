"""The actions of the Ground tab, without widgets: ask, segment again from another layer, draw the overlay again.

Every step returns a `View`, the content of the page. Errors become sentences in it, never exceptions.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dashboard import exchanges, markup
from dashboard.context import Context, Stopped, Waiting, read_upload
from dashboard.examples import IMAGES
from dashboard.exchanges import Exchange, Visitor
from groundscore.errors import UserError
from inference.limits import check_prompt
from inference.reply import LayerChoice

log = logging.getLogger(__name__)

UNEXPECTED = "An internal error occurred; the program's log has the details. Please try again."


@dataclass
class View:
    """The content of the page: the answer as HTML and, once it is finished, overlay, targets as HTML, and files."""

    answer: str
    overlay: Path | None = None
    targets: str = ""
    masks: Path | None = None
    record: Path | None = None
    tools: Path | None = None


@dataclass(frozen=True)
class LayerOptions:
    """Which hidden states a model can prompt from. last: index of the last; policy: whether it has one, and trained:
    whether training used it; default: the rule that `app.py --layer` named, else the checkpoint's own."""

    last: int
    policy: bool
    trained: bool
    default: LayerChoice


class Grounding:
    """The actions of the Ground tab; holds no state of a visitor."""

    def __init__(self, context: Context):
        self.context = context

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

    def layer(self, wish: LayerChoice) -> LayerChoice:
        """The layer chosen by the widgets, or None (the default) if there is no choice."""
        return wish if self.context.model.ready and self.layer_options().policy else None

    def ask(
        self,
        who: str,
        person: Visitor,
        upload: str | None,
        prompt: str | None,
        *,
        layer: LayerChoice = None,
        follow_up: bool = False,
        opacity: float = 0.5,
    ) -> Iterator[View]:
        """The answer as it grows, then with its masks, which are added to what `person` can go back to.

        who: names the visitor's browser tab, for stopping. follow_up: show the model the earlier questions about the
        same image, too.
        """
        said = ""
        try:
            session = self.context.model.get()
            question = check_prompt(prompt, self.context.limits)
            image = read_upload(upload, self.context.limits)
            self._note_upload(person, Path(upload))
            earlier = _earlier(person, image) if follow_up else ()
            reply = None
            for step in self.context.answers.run(
                who,
                lambda on_text: session.ask(image, earlier, question, on_text=on_text, layer=layer),
                self.context.limits.targets_of(image.shape[:2]),
            ):
                if isinstance(step, Waiting):
                    yield View(markup.answer(said, growing=True, note=step.stage))
                elif isinstance(step, str):
                    said = step
                    yield View(markup.answer(said, growing=True))
                else:
                    reply = step
            person.keep(image, reply, layer=layer, earlier=earlier, most=self.context.limits.history)
            yield self.show(person, -1, opacity)
        except Stopped:
            yield View(markup.answer(said, note="Stopped."))
        except Exception as error:
            yield View(markup.problem(sentence(error)))

    def _note_upload(self, person: Visitor, upload: Path) -> None:
        """The visitor's file goes with the visitor; the examples, of which Gradio serves copies, stay for all."""
        below = upload.resolve().is_relative_to(self.context.folder.resolve())
        if below and upload.name not in {path.name for path in IMAGES.iterdir()}:
            person.uploads.add(upload)

    def look_again(
        self, who: str, person: Visitor, index: int | None, layer: LayerChoice, opacity: float
    ) -> View | None:
        """The same answer with masks from another layer; None if nothing changes."""
        try:
            exchange = person.at(index)
            if exchange is None or not exchange.targets or exchange.layer == layer:
                return None
            session, before, image = self.context.model.get(), exchange.reply(), exchange.image()
            *_, reply = self.context.answers.run(
                who, lambda _: session.segment_again(image, exchange.earlier, before, layer)
            )
            person.replace(index, reply, layer)
            return self.show(person, index, opacity)
        except Stopped:
            return None
        except Exception as error:
            return View(markup.problem(sentence(error)))

    def show(self, person: Visitor, index: int | None, opacity: float) -> View | None:
        """An exchange with all its images; None where there is no such exchange."""
        exchange = person.at(index)
        if exchange is None:
            return None
        return View(
            answer=markup.answer(exchange.text, colours=exchange.colours, note=_note(exchange)),
            overlay=exchanges.draw_overlay(exchange, opacity),
            targets=markup.targets(exchanges.draw_targets(exchange)),
            masks=exchanges.write_masks(exchange) if exchange.targets else None,
            record=exchanges.write_record(exchange),
            tools=exchanges.write_tools(exchange) if exchange.targets else None,
        )

    def recompose(self, person: Visitor, index: int | None, opacity: float) -> Path | None:
        """The overlay of an exchange with another opacity, without the model; None where there is no exchange."""
        exchange = person.at(index)
        return None if exchange is None else exchanges.draw_overlay(exchange, opacity)


def sentence(error: Exception) -> str:
    """The sentence that a visitor sees for an error; unexpected errors are logged."""
    if isinstance(error, UserError):
        return str(error)
    log.error("in the dashboard", exc_info=error)
    return UNEXPECTED


def _earlier(person: Visitor, image: np.ndarray) -> tuple:
    """The turns of the last exchanges without a break about this very image."""
    turns = []
    for exchange in reversed(person.exchanges):
        if exchange.size != image.shape[:2] or not np.array_equal(exchange.image(), image):
            break
        turns.append(exchange.turn)
    return tuple(reversed(turns))


def _note(exchange: Exchange) -> str:
    """The remarks below an answer: what was not found, whether it was cut off, its time."""
    parts = []
    if exchange.remark:
        parts.append(exchange.remark)
    if not exchange.complete:
        parts.append("The answer reached the maximum length and was cut off.")
    parts.append(f"{exchange.seconds:.2f} s" if exchange.seconds < 1 else f"{exchange.seconds:.1f} s")
    return " ".join(parts)
