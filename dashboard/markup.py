"""The HTML of the dashboard; all text from outside goes through `escape`."""

import re
from collections.abc import Iterable, Sequence
from html import escape as _escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from groundscore.colours import Colour, text_on
from groundscore.drawing import split_targets

if TYPE_CHECKING:
    from dashboard.exchanges import TargetImages

NO_COLOUR: Colour = (70, 76, 86)  # of a target whose mask is not there yet
# Characters that command a terminal or turn the direction of writing; browsers have no use for them either.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """`text` as HTML that shows exactly these characters, template marks of the front end included."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be sent
    shown = _escape(_INVISIBLE.sub("", text), quote=True)
    return shown.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def answer(text: str, *, colours: Sequence[Colour] = (), note: str | None = None, growing: bool = False) -> str:
    """An answer with every `[SEG]` as a numbered badge in its mask's colour.

    While it grows, its note is read aloud as a status.
    """
    body = numbered(text, colours=colours)
    cursor = '<span class="cursor"></span>' if growing else ""
    role = ' role="status"' if growing else ""
    foot = f'<p class="note"{role}>{escape(note)}</p>' if note else ""
    said = f"<p>{body}{cursor}</p>" if body or cursor else ""
    return f'<div class="answer">{said}{foot}</div>'


def numbered(text: str, *, first: int = 0, colours: Sequence[Colour] = ()) -> str:
    """Text with every `[SEG]` as a badge, numbered from `first`; colours: of the targets from 0 on."""
    pieces = split_targets(text)
    return "".join(escape(piece) if number is None else badge(first + number, colours) for piece, number in pieces)


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Cells of text; without a head the first column names the row.

    Every cell knows the name of its column, which narrow screens show beside it instead of the head.
    """
    lines = []
    if head:
        lines.append("<thead><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr></thead>")
    for first, *others in rows:
        tag = "td" if head else "th"
        named = zip(head[1:] or [""] * len(others), others, strict=True)
        cells = "".join(f'<td data-name="{escape(name)}">{escape(cell)}</td>' for name, cell in named)
        lines.append(f"<tr><{tag}>{escape(first)}</{tag}>{cells}</tr>")
    return f'<div class="table{" headed" if head else ""}"><table>{"".join(lines)}</table></div>'


def numbers(pairs: Iterable[Sequence[str]]) -> str:
    """Figures with their names, side by side."""
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in pairs)
    return f'<div class="numbers">{cells}</div>'


def folded(title: str, content: str) -> str:
    """HTML behind a title that opens it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def badge(number: int, colours: Sequence[Colour] = ()) -> str:
    """The badge `[SEG n]` of the target with this index, in the colour of its mask; dark until it has one."""
    colour = colours[number] if number < len(colours) else NO_COLOUR
    style = f"background: rgb{colour}; color: rgb{text_on(colour)}"
    return f'<span class="seg" data-target="{number + 1}" style="{style}">[SEG {number + 1}]</span>'


def targets(drawn: Sequence["TargetImages"]) -> str:
    """A card for each target: its badge, what was found, its mask and its similarity map side by side."""
    cards = []
    colours = [target.colour for target in drawn]
    for number, target in enumerate(drawn):
        name = f"[SEG {number + 1}]"
        figures = [_figure(target.mask, f"mask of {name}", "mask")]
        if target.similarity is not None:
            figures.append(
                _figure(target.similarity, f"similarity map of {name}", f"similarity at layer {target.layer}")
            )
        head = f'<header>{badge(number, colours)} <span class="note">{escape(target.found)}</span></header>'
        cards.append(f'<section class="target">{head}<div class="pair">{"".join(figures)}</div></section>')
    return f'<div class="targets">{"".join(cards)}</div>' if cards else ""


def file_address(path: Path) -> str:
    """Where the page finds a file of the dashboard's folder."""
    return f"gradio_api/file={quote(str(path))}"


def image(path: Path, description: str) -> str:
    """A file as an image; without a description it is mere decoration."""
    return f'<img src="{escape(file_address(path))}" alt="{escape(description)}">'


def examples(shown: Iterable[tuple[Path, str]]) -> str:
    """Buttons with an image and the question about it."""
    buttons = "".join(
        f'<button type="button" data-example="{number}">{image(path, "")}<span>{escape(question)}</span></button>'
        for number, (path, question) in enumerate(shown)
    )
    return f'<section class="examples" aria-label="Examples"><h2>Examples</h2><div>{buttons}</div></section>'


def _figure(path: Path, description: str, caption: str) -> str:
    address = file_address(path)
    link = f'<a href="{escape(address)}" target="_blank" rel="noopener">{image(path, description)}</a>'
    return f"<figure>{link}<figcaption>{escape(caption)}</figcaption></figure>"


def note(message: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{escape(message)}</p>'


def problem(message: str) -> str:
    """An error message."""
    return f'<div class="answer problem" role="alert"><p>{escape(message)}</p></div>'


def hint(message: str) -> str:
    """What will appear here, or what to do next."""
    return f'<div class="answer hint"><p>{escape(message)}</p></div>'


def header(title: str, line: str, model: str | None, links: Sequence[tuple[str, str]]) -> str:
    """The page's heading: what it is, which model answers, and links (title, address)."""
    named = f'<p class="note">{escape(model)}</p>' if model else ""
    ways = "".join(
        f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(name)}</a>' for name, address in links
    )
    return f'<header class="head"><h1>{escape(title)}</h1><p>{escape(line)}</p>{named}<nav>{ways}</nav></header>'


def plain_page(title: str, text: str) -> str:
    """A page of its own with a text as it is."""
    style = "body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; }"
    style += " pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 0.95rem/1.6 ui-monospace, monospace; }"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    head = f'<!doctype html><html lang="en"><head>{head}<style>{style}</style></head>'
    return f"{head}<body><main><h1>{escape(title)}</h1><pre>{escape(text)}</pre></main></body></html>"


def loading(name: str, stage: str, seconds: float) -> str:
    """The progress bar shown while the model loads."""
    return (
        f'<div class="model-loading" role="status"><p>Loading <b>{escape(name)}</b>: {escape(stage)} '
        f'<span class="seconds">{seconds:.0f} s</span></p><div class="bar"><div></div></div></div>'
    )
