"""Clicks and boxes on the image of the Ground tab: they correct a mask, or ask what is there without words."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dashboard.context import Stopped, Waiting
from dashboard.exchanges import Exchange
from dashboard.grounding import Grounding, sentence
from dashboard.visit import Attempt, Correction, Visit
from groundscore.errors import UserError
from inference.spots import Point, Spots

TOOLS = (
    {
        "name": "look",
        "title": "Look",
        "asks": "A click on a mask chooses it, to be corrected. Ctrl and the wheel zoom, dragging moves.",
        "corrects": "Mask # is chosen: the other tools correct it.",
    },
    {
        "name": "add",
        "title": "+ Inside",
        "asks": "A click asks what is at that spot. Choose a mask to correct it instead.",
        "corrects": "A click adds what is there to mask #.",
    },
    {
        "name": "remove",
        "title": "− Outside",
        "asks": "Choose a mask first: a click then removes what is there.",
        "corrects": "A click removes what is there from mask #.",
    },
    {
        "name": "box",
        "title": "▭ Box",
        "asks": "A box asks what is in it. Choose a mask to correct it instead.",
        "corrects": "A box tells where the whole of mask # is.",
    },
)


@dataclass(frozen=True)
class Gesture:
    """One use of a tool. target: index of the mask that is chosen, None for none; start, end: x and y as shares of the
    image's width and height; token: number of the exchange that the page showed."""

    tool: str
    token: int | None
    target: int | None = None
    start: tuple[float, float] = (0.0, 0.0)
    end: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def read(cls, data: Any) -> "Gesture | None":
        """From what the page sends; None for what no page sends."""
        if not isinstance(data, dict) or data.get("tool") not in ("undo", "add", "remove", "box"):
            return None
        token, target = data.get("token"), data.get("target")
        if not all(each is None or (type(each) is int and 0 < each < 10**6) for each in (token, target)):
            return None
        if data["tool"] == "undo":
            return cls("undo", token)
        start, end = data.get("from"), data.get("to")
        if not (_is_place(start) and _is_place(end)):
            return None
        return cls(data["tool"], token, None if target is None else target - 1, tuple(start), tuple(end))

    def added_to(self, spots: Spots, size: tuple[int, int]) -> Spots:
        """`spots` and this one, in pixels of an image of `size`, (H, W); a new box replaces the one before."""
        height, width = size

        def pixels(place: tuple[float, float]) -> tuple[float, float]:
            return min(place[0] * width, width - 0.5), min(place[1] * height, height - 0.5)

        x, y = pixels(self.end)
        if self.tool != "box":
            return replace(spots, points=(*spots.points, Point(x, y, inside=self.tool == "add")))
        left, top = pixels(self.start)
        return replace(spots, box=(min(left, x), min(top, y), max(left, x), max(top, y)))


def point(tab: Grounding, who: str, visit: Visit, upload: str | None, gesture: Gesture | None) -> Iterator[bool]:
    """Does what the gesture says, and yields after every change of the visit whether more than its conversation
    changed. One that was made on what is not shown any more does nothing."""
    if gesture is None or gesture.token != visit.shown:
        return
    exchange = visit.exchange
    if gesture.tool == "undo":
        yield visit.undo()
    elif gesture.target is not None:
        if exchange is not None and gesture.target < len(exchange.targets):
            yield from _correct(tab, who, visit, exchange, gesture)
    elif gesture.tool == "remove":
        visit.attempt = Attempt("")
        visit.attempt.end(problem="Choose the mask first from which something shall be removed.")
        yield False
    else:
        yield from _ask_there(tab, who, visit, upload, gesture)


def _correct(tab: Grounding, who: str, visit: Visit, exchange: Exchange, gesture: Gesture) -> Iterator[bool]:
    spots = gesture.added_to(visit.spots_of(exchange.number, gesture.target), exchange.size)

    def work(_):
        from inference.corrections import correct_mask

        session = tab.context.model.get()
        return correct_mask(session, exchange.image(), exchange.earlier, exchange.reply(), gesture.target, spots)

    attempt = visit.attempt = Attempt(f"Correct [SEG {gesture.target + 1}]: {spots}", visit.preview)
    for reply in _results(tab, who, attempt, work):
        if reply is not None and visit.attempt is attempt and exchange in visit.visitor.exchanges:
            visit.corrections.append(Correction(exchange.number, gesture.target, spots, exchange))
            visit.visitor.replace(exchange, reply, exchange.layer)
            missed = spots.missed(reply.masks[gesture.target])
            attempt.end(note=missed)
            visit.attempt = attempt if missed else None
        yield reply is not None


def _ask_there(tab: Grounding, who: str, visit: Visit, upload: str | None, gesture: Gesture) -> Iterator[bool]:
    shown, moves = visit.exchange, visit.moves
    attempt = visit.attempt = Attempt("What is there?", visit.preview)
    try:
        image = tab.read(visit, upload) if shown is None else shown.image()
        source = Path(upload) if shown is None else shown.source
        spots = gesture.added_to(Spots(), image.shape[:2])
        attempt.question = f"What is there? {spots}"
    except Exception as error:
        attempt.end(problem=sentence(error))
        yield False
        return

    def work(_):
        from inference.corrections import segment_at

        return segment_at(tab.context.model.get(), image, spots)

    for reply in _results(tab, who, attempt, work):
        if reply is not None and visit.attempt is attempt:
            reply = replace(reply, prompt=attempt.question)
            most = tab.context.limits.history
            exchange = visit.visitor.keep(image, reply, source=source, layer=None, earlier=(), most=most)
            visit.attempt = None
            if visit.moves == moves:
                visit.show(exchange)
        yield reply is not None


def _results(tab: Grounding, who: str, attempt: Attempt, work) -> Iterator[Any]:
    """None while the model works and where that fails, which the attempt tells; the reply once it is there."""
    try:
        for step in tab.context.answers.run(who, work):
            if isinstance(step, Waiting | str):
                attempt.stage = step.stage if isinstance(step, Waiting) and step.before is not None else "Segmenting"
                yield None
            else:
                yield step
    except Stopped:
        attempt.end(note="Stopped.")
        yield None
    except Exception as error:
        attempt.end(problem=_sentence(error))
        yield None


def _sentence(error: Exception) -> str:
    text = sentence(error)
    return text[:1].upper() + text[1:] if isinstance(error, UserError) else text


def _is_place(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(each) in (int, float) and math.isfinite(each) and 0 <= each <= 1 for each in value)
    )
