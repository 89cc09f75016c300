"""Best, worst and random cases of an evaluation as one HTML page that needs no other file.

Images are inside the page, words from data and model are escaped, and the page may load or run nothing.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groundscore.colours import IGNORE_COLOUR, Colour, choose_colours
from groundscore.drawing import overlay, resize_mask, size_within
from groundscore.rle import decode
from groundscore.scoring.counts import QuestionCounts, Row, row_iou
from groundscore.scoring.masks import to_rle
from groundscore.splits import EvaluationItem
from groundscore.writing import write_lines

SIDE = 320  # longest side of an image in the page
CASES = 6  # of each choice

STYLE = """
:root { color-scheme: light dark; --line: #d5d9df; --soft: #66707c; --card: #fff; --page: #f4f5f7; --ink: #1c1e22 }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a3f47; --soft: #9aa4b0; --card: #22252a; --page: #17191c; --ink: #e8eaed }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1240px; padding: 24px; font: 15px/1.45 system-ui, sans-serif;
       background: var(--page); color: var(--ink) }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 19px; margin: 36px 0 4px }
h3 { font-size: 16px; margin: 20px 0 8px }
p { margin: 0 0 8px } .soft { color: var(--soft) }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 14px }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0 }
.images { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; margin: 0 0 8px }
figure { margin: 0; min-width: 0 } img { display: block; width: 100%; height: auto; border-radius: 4px }
figcaption { font-size: 12px; color: var(--soft) }
.asked { font-weight: 600; overflow-wrap: anywhere } .answer, .path { overflow-wrap: anywhere }
.path { font-size: 12px; color: var(--soft); margin: 6px 0 0 }
.iou { float: right; margin-left: 12px; font-variant-numeric: tabular-nums }
"""


@dataclass(frozen=True)
class Section:
    """What is shown of one split.

    title: the split and how it was asked. rows: of all expressions; masks: of each row its masks as RLE.
    items: the split, from which images and ground truth are read again. note: what must be known of it besides.
    """

    title: str
    items: Sequence[EvaluationItem]
    rows: Sequence[Row]
    masks: Sequence[Sequence[Any]]
    note: str = ""


def write_gallery(path: Path, title: str, sections: Iterable[Section], *, cases: int = CASES, seed: int = 0) -> None:
    """Write the page whole or not at all; `cases` of each choice from every section, the random ones by `seed`."""
    write_lines(path, _page(title, sections, cases, seed))


def choose_cases(rows: Sequence[Row], count: int, seed: int) -> dict[str, list[int]]:
    """Indices of the best, the worst and random rows, no row twice.

    Best are those whose target has pixels; a larger target first where IoU is equal. Of equally bad ones the most
    wrong pixels come first. For variety an image is taken once for each choice where there are enough.
    """
    scores = [row_iou(row) for row in rows]
    areas = [_target_area(row) for row in rows]
    wrong = [sum(pair.union - pair.intersection for pair in row.pairs()) for row in rows]
    indices = range(len(rows))
    best = sorted((n for n in indices if areas[n] > 0), key=lambda n: (-scores[n], -areas[n], n))
    worst = sorted(indices, key=lambda n: (scores[n], -wrong[n], n))
    random = np.random.default_rng(seed).permutation(len(rows)).tolist()
    chosen: dict[str, list[int]] = {}
    taken: set[int] = set()
    for name, ordered in (("Best", best), ("Worst", worst), ("Random", random)):
        # Of few rows each choice gets its share.
        share = min(count, -(-(len(rows) - len(taken)) // (3 - len(chosen))))
        chosen[name] = _varied([index for index in ordered if index not in taken], rows, share)
        taken |= set(chosen[name])
    return chosen


def _varied(ordered: Sequence[int], rows: Sequence[Row], count: int) -> list[int]:
    seen: set[int] = set()
    first, again = [], []
    for index in ordered:
        (again if rows[index].item in seen else first).append(index)
        seen.add(rows[index].item)
    return (first + again)[:count]


def _target_area(row: Row) -> int:
    return sum(row.target_areas) if isinstance(row, QuestionCounts) else row.target_area


def page_head(title: str, style: str = "") -> str:
    """Returns a page's beginning up to its heading; it may load and run nothing. style: rules beside `STYLE`."""
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
    )


def inline_image(image: np.ndarray) -> str:
    """Returns an image uint8 [H, W, 3] as base64 JPEG for a `data:` address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _page(title: str, sections: Iterable[Section], cases: int, seed: int) -> Iterable[str]:
    yield page_head(title)
    yield (
        '<p class="soft">Image, truth and prediction; where a target is one of several, each has its colour. Grey '
        "pixels do not count.</p>\n"
    )
    for section in sections:
        yield f"<section>\n<h2>{html.escape(section.title)}</h2>\n"
        if section.note:
            yield f"<p><strong>{html.escape(section.note)}</strong></p>\n"
        for choice, indices in choose_cases(section.rows, cases, seed).items():
            if indices:
                yield f'<h3>{choice}</h3>\n<div class="cases">\n'
                for index in indices:
                    yield _case(section, index)
                yield "</div>\n"
        yield "</section>\n"
    yield "</body>\n</html>\n"


def _case(section: Section, index: int) -> str:
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
    figures = (
        ("image", _drawn(item, (), ())),
        ("truth" if truth.any() else "truth: nothing", _drawn(item, truth, colours, ignored=True)),
        (
            "prediction" if any(mask.any() for mask in predicted) else "prediction: nothing",
            _drawn(item, predicted, colours),
        ),
    )
    figures = "".join(
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, data in figures
    )
    answer = "" if row.answer is None else f'<p class="answer">{html.escape(row.answer)}</p>'
    return (
        f'<article><div class="images">{figures}</div>'
        f'<p><span class="iou">IoU {row_iou(row):.3f}</span> <span class="asked">{html.escape(expression)}</span></p>'
        f'{answer}<p class="path">{html.escape(row.image)}, expression {row.expression}</p></article>\n'
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
