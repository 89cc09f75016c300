"""Best, worst and random cases of an evaluation as one HTML page that needs no other file.

Nothing runs on the page: filters and zoom are CSS, driven by the radio buttons and by the address of an image.
"""

import html
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groundscore.colours import IGNORE_COLOUR, Colour, choose_colours
from groundscore.drawing import overlay, resize_mask, size_within
from groundscore.rle import decode
from groundscore.scoring import percent
from groundscore.scoring.counts import QuestionCounts, Row, row_iou
from groundscore.scoring.masks import to_rle
from groundscore.scoring.pages import PAGE_END, facts_list, inline_image, page_head
from groundscore.splits import EvaluationItem
from groundscore.writing import write_lines

SIDE = 640  # longest side of an image in the page: a third of a card, or the window when it is enlarged
CASES = 6  # of each choice

# The kinds of query that a case may be of, by what they are about; see `EvaluationItem.query_kinds`.
FILTERS = {
    "Target is said": ("explicit", "implicit"),
    "Targets": ("single", "multi", "none", "correction"),
    "Chosen as": ("best", "worst", "random"),
}

STYLE = """
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 14px }
.case { min-width: 0; scroll-margin: 90px } article { height: 100% }
.images { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; margin: 0 0 8px }
.images a { display: block; cursor: zoom-in }
.answer, .path { overflow-wrap: anywhere } .path { font-size: 12px; color: var(--soft); margin: 6px 0 0 }
.iou { float: right; margin-left: 12px; font-variant-numeric: tabular-nums }
.scores { display: grid; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); gap: 8px; margin: 10px 0 }
.scores div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 6px 10px }
.scores dt { font-size: 12px; color: var(--soft) }
.scores dd { margin: 0; font-size: 17px; font-variant-numeric: tabular-nums }
.scores dd span { display: block; font-size: 12px; color: var(--soft) }
nav ul { margin: 4px 0 0; padding-left: 20px; overflow-wrap: anywhere }
form { display: flex; flex-wrap: wrap; gap: 4px 22px; padding: 10px 0; position: sticky; top: 0; z-index: 1;
       background: var(--page); border-bottom: 1px solid var(--line) }
fieldset { display: flex; flex-wrap: wrap; gap: 2px 12px; border: 0; margin: 0; padding: 0; min-width: 0 }
legend { float: left; padding: 0 2px 0 0; color: var(--soft) } label { white-space: nowrap }
@media (max-width: 600px) { form { position: static } .case { scroll-margin: 14px } }
.zoomed { display: none }
html:has(figure:target) { overflow: hidden }
article:has(figure:target) { position: fixed; inset: 0; z-index: 2; overflow: auto; border: 0; border-radius: 0 }
article:has(figure:target) .zoomed { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 0 0 10px; font-size: 16px }
article:has(figure:target) .images { display: block } article:has(figure:target) figure:not(:target) { display: none }
figure:target a { cursor: auto }
figure:target img { width: auto; max-width: 100%; height: calc(100vh - 190px); object-fit: contain; margin: 0 auto }
"""


@dataclass(frozen=True)
class Section:
    """What is shown of one split.

    title: the split and how it was asked. rows: of all expressions; masks: of each row its masks as RLE.
    items: the split, from which images and ground truth are read again. note: what must be known of it besides.
    scores: headings of metrics and their values as text, an interval in brackets behind a value.
    """

    title: str
    items: Sequence[EvaluationItem]
    rows: Sequence[Row]
    masks: Sequence[Sequence[Any]]
    note: str = ""
    scores: Mapping[str, str] = field(default_factory=dict)


def write_gallery(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    facts: Mapping[str, str] = {},
    cases: int = CASES,
    seed: int = 0,
) -> None:
    """Write the page whole or not at all; `cases` of each choice from every section, the random ones by `seed`.

    facts: what is said above all sections, such as checkpoint and protocol.
    """
    write_lines(path, _page(title, sections, facts, cases, seed))


def choose_cases(
    rows: Sequence[Row], count: int, seed: int, kinds: Sequence[Hashable] | None = None
) -> dict[str, list[int]]:
    """Indices of the best, the worst and random rows, no row twice.

    Best are those whose target has pixels; a larger target first where IoU is equal. Of equally bad ones the most
    wrong pixels come first. For variety the best and the worst are taken from the `kinds` of the rows in turn, and an
    image is taken once for each choice where there are enough.
    """
    scores = [row_iou(row) for row in rows]
    areas = [_target_area(row) for row in rows]
    wrong = [sum(pair.union - pair.intersection for pair in row.pairs()) for row in rows]
    indices = range(len(rows))
    best = sorted((n for n in indices if areas[n] > 0), key=lambda n: (-scores[n], -areas[n], n))
    worst = sorted(indices, key=lambda n: (scores[n], -wrong[n], n))
    random = np.random.default_rng(seed).permutation(len(rows)).tolist()
    one_kind = [None] * len(rows)
    chosen: dict[str, list[int]] = {}
    taken: set[int] = set()
    for name, ordered in (("Best", best), ("Worst", worst), ("Random", random)):
        # Of few rows each choice gets its share. Random ones stay random: kinds come as often as they do in the split.
        share = min(count, -(-(len(rows) - len(taken)) // (3 - len(chosen))))
        free = [index for index in ordered if index not in taken]
        chosen[name] = _varied(free, rows, share, one_kind if name == "Random" or kinds is None else kinds)
        taken |= set(chosen[name])
    return chosen


def _varied(ordered: Sequence[int], rows: Sequence[Row], count: int, kinds: Sequence[Hashable]) -> list[int]:
    """The first `count`, each image once where there are enough, the kinds in turn; in the order that they came in."""
    seen: set[int] = set()
    met: dict[Hashable, int] = {}
    ranks = []
    for place, index in enumerate(ordered):
        again = rows[index].item in seen
        seen.add(rows[index].item)
        turn = met[kinds[index]] = met.get(kinds[index], 0) + 1
        ranks.append((again, turn, place))
    return [ordered[place] for *_, place in sorted(sorted(ranks)[:count], key=lambda rank: (rank[0], rank[2]))]


def _target_area(row: Row) -> int:
    return sum(row.target_areas) if isinstance(row, QuestionCounts) else row.target_area


def _kinds_of(section: Section) -> list[tuple[str, ...]]:
    """The kinds of query of every row."""
    kinds = []
    number, item = -1, None
    for row in section.rows:
        if row.item != number or item is None:  # rows of an item follow each other
            number, item = row.item, section.items[row.item]
        targets = len(row.target_areas) if isinstance(row, QuestionCounts) else None
        kinds.append(item.query_kinds(row.expression, targets))
    return kinds


# --- page -------------------------------------------------------------------------------------------------------------


def _page(title: str, sections: Sequence[Section], facts: Mapping[str, str], cases: int, seed: int) -> Iterable[str]:
    kinds = [_kinds_of(section) for section in sections]
    chosen = [choose_cases(one.rows, cases, seed, some) for one, some in zip(sections, kinds, strict=True)]
    shown = {kinds[n][index] for n, choices in enumerate(chosen) for some in choices.values() for index in some}
    classes = {name for names in shown for name in names}
    classes |= {choice.lower() for choices in chosen for choice, some in choices.items() if some}
    filters = {legend: [name for name in names if name in classes] for legend, names in FILTERS.items()}
    filters = {legend: names for legend, names in filters.items() if len(names) > 1}

    yield page_head(title, STYLE + _filter_rules(filters))
    yield (
        '<p class="soft">Answers of a model with the masks that it drew: image, truth and prediction side by side, of '
        "the best, the worst and random expressions. Where a target is one of several, each has its colour. Grey "
        "pixels do not count. Select an image to enlarge it.</p>\n"
    )
    yield facts_list(facts)
    if len(sections) > 1:
        links = "".join(f'<li><a href="#s{n}">{html.escape(one.title)}</a></li>' for n, one in enumerate(sections))
        yield f'<nav aria-label="Contents">Contents<ul>{links}</ul></nav>\n'
    yield _filter_form(filters)
    for n, section in enumerate(sections):
        yield f'<section id="s{n}">\n<h2>{html.escape(section.title)}</h2>\n'
        if section.note:
            yield f"<p><strong>{html.escape(section.note)}</strong></p>\n"
        yield _scores(section.scores)
        for choice, indices in chosen[n].items():
            if indices:
                yield f'<div class="choice {choice.lower()}">\n<h3>{choice}</h3>\n<div class="cases">\n'
                for index in indices:
                    yield _case(section, index, f"s{n}-{index}", kinds[n][index])
                yield "</div>\n</div>\n"
        yield "</section>\n"
    yield PAGE_END


def _filter_rules(filters: Mapping[str, Sequence[str]]) -> str:
    """What the radio button of a filter hides: cases of other kinds, and choices that have none of this kind."""
    rules = []
    for names in filters.values():
        for name in names:
            on = f"body:has(#only-{name}:checked)"
            if name in FILTERS["Chosen as"]:
                rules.append(f"{on} .choice:not(.{name}) {{ display: none }}")
            else:
                rules.append(f"{on} .case:not(.{name}), {on} .choice:not(:has(.{name})) {{ display: none }}")
    return "\n".join(rules) + "\n"


def _filter_form(filters: Mapping[str, Sequence[str]]) -> str:
    groups = []
    for number, (legend, names) in enumerate(filters.items()):
        buttons = [f'<label><input type="radio" name="f{number}" id="all-{number}" checked> all</label>']
        buttons += [f'<label><input type="radio" name="f{number}" id="only-{name}"> {name}</label>' for name in names]
        groups.append(f"<fieldset><legend>{legend}</legend> {' '.join(buttons)}</fieldset>")
    return f'<form aria-label="Filters" autocomplete="off">{"".join(groups)}</form>\n' if groups else ""


def _scores(scores: Mapping[str, str]) -> str:
    tiles = []
    for heading, value in scores.items():
        number, bracket, interval = value.partition(" (")
        note = f"<span>({html.escape(interval)}</span>" if bracket else ""
        tiles.append(f"<div><dt>{html.escape(heading)}</dt><dd>{html.escape(number)}{note}</dd></div>")
    return f'<dl class="scores">{"".join(tiles)}</dl>\n' if tiles else ""


def _case(section: Section, index: int, name: str, kinds: Sequence[str]) -> str:
    """One expression. name: of the element that it is in; kinds: of query."""
    row = section.rows[index]
    item = section.items[row.item]
    expression = item.expressions[row.expression]
    separate = isinstance(row, QuestionCounts)
    truth = item.target_masks[row.expression] if separate else item.masks[row.expression][None]
    present = bool(row.predicted_areas) if separate else row.present
    drawn = section.masks[index] if present else ()
    size = item.image.shape[:2]
    predicted = [decode(to_rle(mask, size, f"{row.image}, expression {row.expression}")) for mask in drawn]
    colours = choose_colours(item.image, max(truth, predicted, key=len))  # the same for a target and its prediction
    figures = {
        "image": ("image", _drawn(item, (), ())),
        "truth": ("truth" if truth.any() else "truth: nothing", _drawn(item, truth, colours, ignored=True)),
        "prediction": (
            "prediction" if any(mask.any() for mask in predicted) else "prediction: nothing",
            _drawn(item, predicted, colours),
        ),
    }
    shown = "".join(
        f'<figure id="{name}-{part}"><a href="#{name}-{part}" aria-label="Enlarge {html.escape(caption)}">'
        f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(caption)}"></a>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for part, (caption, data) in figures.items()
    )
    links = "".join(f'<a href="#{name}-{part}">{part}</a>' for part in figures) + f'<a href="#{name}">close</a>'
    answer = "" if row.answer is None else f'<p class="answer">{html.escape(row.answer)}</p>'
    about = ", ".join([f"{row.image}, expression {row.expression}", *kinds])
    return (
        f'<div class="case {" ".join(kinds)}" id="{name}"><article>'
        f'<div class="zoomed">{links}</div><div class="images">{shown}</div>'
        f'<p><span class="iou">IoU {percent(row_iou(row))}</span> <span class="asked">{html.escape(expression)}</span>'
        f'</p>{answer}<p class="path">{html.escape(about)}</p></article></div>\n'
    )


def _drawn(
    item: EvaluationItem, masks: Sequence[np.ndarray], colours: Sequence[Colour], *, ignored: bool = False
) -> str:
    """Returns the image with masks as base64 JPEG, drawn at the size of the page so that outlines stay thin; several
    masks are numbered."""
    size = size_within(item.image, SIDE, enlarge=False)
    image = np.asarray(Image.fromarray(item.image).resize(size, Image.Resampling.LANCZOS))
    if ignored and item.ignore is not None:
        image = overlay(image, [resize_mask(item.ignore, size)], [IGNORE_COLOUR], contour=0)
    if len(masks):
        numbers = range(1, len(masks) + 1) if len(masks) > 1 else ()
        image = overlay(image, [resize_mask(mask, size) for mask in masks], colours, dim=0.35, numbers=numbers)
    return inline_image(image)
