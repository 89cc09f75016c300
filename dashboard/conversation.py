"""The conversation of a visit as HTML: every turn with its thumbnail, its question and its answer, the newest last."""

from dashboard import markup
from dashboard.exchanges import Exchange, thumbnail
from dashboard.visit import Attempt, Visit

NOTHING_YET = "Choose an image, or an example below, and ask what you are looking for. The answer appears here."

SHORT = 120  # characters of an answer that can be shown on the image


def conversation(visit: Visit | None) -> str:
    """All turns; the one that is shown is marked, and so is the question that runs."""
    exchanges = visit.visitor.exchanges if visit else []
    attempt = visit.attempt if visit else None
    turns = [_turn(each, each.number == visit.shown) for each in exchanges]
    if attempt is not None:
        turns.append(_attempt(attempt))
    if not turns:
        return markup.hint(NOTHING_YET)
    turns[-1] = turns[-1].replace('class="turn', 'class="turn newest', 1)
    return f'<ol class="talk" tabindex="0" aria-label="Conversation">{"".join(turns)}</ol>'


def _turn(exchange: Exchange, shown: bool) -> str:
    missing = verdict(exchange)
    said_already = missing is not None and missing.rstrip(".") == exchange.text.rstrip(".")
    text = "" if said_already else exchange.text
    answer = markup.answer(text, colours=exchange.colours, note=_note(exchange))
    if missing is not None:
        answer = f'<p class="missing">{markup.escape(missing)}</p>{answer}'
    picture = markup.image(thumbnail(exchange), "")
    button = (
        f'<button type="button" class="open" aria-pressed="{str(shown).lower()}" '
        f'aria-label="{markup.escape("Show the answer to: " + exchange.prompt[:80])}">{picture}</button>'
    )
    question = f'<p class="question">{markup.escape(exchange.prompt)}</p>'
    marked = " shown" if shown else ""
    return f'<li class="turn{marked}" data-turn="{exchange.number}">{button}<div>{question}{answer}</div></li>'


def _attempt(attempt: Attempt) -> str:
    picture = markup.image(attempt.preview.path, "") if attempt.preview else ""
    question = f'<p class="question">{markup.escape(attempt.question)}</p>' if attempt.question else ""
    if attempt.problem is not None:
        said = markup.problem(attempt.problem)
    else:
        said = markup.answer(attempt.text, note=attempt.stage or attempt.note, growing=attempt.running)
    marked = " running" if attempt.running else ""
    return f'<li class="turn{marked}"><span class="open">{picture}</span><div>{question}{said}</div></li>'


def verdict(exchange: Exchange) -> str | None:
    """Where an answer has no mask: that the thing is not there, in the words of the model if it has any."""
    if any(target.pixels for target in exchange.targets):
        return None
    if exchange.targets:
        return "Nothing was found."
    words = exchange.text.replace("[REJ]", "").strip(" .,:")
    if not words:
        return f"Not in this image: {exchange.prompt}"
    return f"{words}." if len(words) <= SHORT else "No mask: the answer names nothing to segment."


def _note(exchange: Exchange) -> str:
    """The remarks below an answer: what was not found, whether it was cut off, its time."""
    parts = []
    if exchange.remark:
        parts.append(exchange.remark)
    if not exchange.complete:
        parts.append("The answer reached the maximum length and was cut off.")
    parts.append(f"{exchange.seconds:.2f} s" if exchange.seconds < 1 else f"{exchange.seconds:.1f} s")
    return " ".join(parts)
