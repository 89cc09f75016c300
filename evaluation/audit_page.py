"""The page of an audit: what it found in a sentence per split, tables, curves, and every layer of some expressions.

All numbers are those of `groundscore.scoring.layers.summarise`; the page needs no other file and loads nothing.
"""

import html
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.audit_plots import choices_plot, curve_plot, pointing_plot
from groundscore.colours import Colour, choose_colours
from groundscore.drawing import heat_map, overlay, resize_mask, size_within
from groundscore.scoring import percent
from groundscore.scoring.layers import GREEDY, LAST, LEAST, NOISE, ORACLE, REDRAWN
from groundscore.scoring.pages import PAGE_END, facts_list, inline_image, page_head

SIDE = 116  # pixels of the longest side of a small image
KIND_ORDER = ("explicit", "implicit", "single", "multi", "positive", "none", "correction")
TITLES = {
    LAST: "last layer",
    GREEDY: "policy's likeliest layer (greedy)",
    ORACLE: "best layer of each expression",
    REDRAWN: "best redraw of the last layer (luck)",
}

_STYLE = """
.table { overflow-x: auto; margin: 6px 0 14px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: 3px 12px 3px 0; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 500 }
.found { background: var(--card); border: 1px solid var(--line); border-left: 4px solid #3b76d0; border-radius: 6px;
         padding: 10px 14px; margin: 8px 0 12px }
.plots { display: flex; flex-wrap: wrap; gap: 18px } svg { background: var(--card); border: 1px solid var(--line);
         border-radius: 8px; max-width: 100%; height: auto } svg text { fill: var(--soft); font-size: 11px }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: min-content; gap: 6px; overflow-x: auto;
         padding-bottom: 6px }
.strip figure { width: 116px } .strip img { margin-bottom: 3px } .case { margin: 0 0 16px }
"""


@dataclass
class LayerImages:
    """What one layer makes of a target: similarity maps [H, W] in [0, 1] of the LLM's and of the mask decoder's side,
    or None; the mask bool [H, W]; its IoU; the policy's probability, or None."""

    name: str
    similarity: np.ndarray | None
    decoder_map: np.ndarray | None
    mask: np.ndarray
    iou: float
    probability: float | None


@dataclass
class Case:
    """An expression that is drawn, asked alone with its given answer. title: why it was taken. layers: of its first
    target, whose true mask is `truth`."""

    title: str
    question: str
    image: np.ndarray
    truth: np.ndarray
    layers: list[LayerImages]


def audit_page(
    title: str,
    report: Mapping[str, Any],
    cases: Mapping[str, Sequence[Case]],
    *,
    rows: Path,
    selected_on: str | None,
) -> Iterator[str]:
    """The page, piece by piece.

    report: as in the audit's JSON file; cases: by split; rows: the file of its rows. selected_on: the splits, joined by
    "||", that the checkpoint was selected on, None where nobody has said.
    """
    yield page_head(f"Audit: {title}", _STYLE)
    yield _facts(report, rows, selected_on)
    yield _METHOD
    for split, by_answer in report["audit"].items():
        for answer, found in by_answer.items():
            yield f"<section>\n<h2>{html.escape(split)}, {answer} answers</h2>\n"
            yield f'<div class="found">{_finding(found, report, split in (selected_on or "").split("||"))}</div>\n'
            yield _scores(found)
            if found["depth"] > 1 and found["layered"]:
                yield f'<div class="plots">{curve_plot(found)}{choices_plot(found)}{pointing_plot(found)}</div>\n'
            yield _kinds(found)
            yield "</section>\n"
        if cases.get(split):
            yield f"<section>\n<h2>{html.escape(split)}, layer by layer</h2>\n{_legend(cases[split][0].layers[0])}"
            yield from (_case(case) for case in cases[split])
            yield "</section>\n"
    for split, scores in report["splits"].items():
        for one in scores.values() if "error" not in scores and "protocol" not in scores else [scores]:
            if "error" in one:
                yield f"<p><strong>{html.escape(split)} could not be scored: {html.escape(one['error'])}</strong></p>\n"
    yield PAGE_END


_METHOD = f"""<details><summary>How to read this</summary>
<p>"Given" forces the answer with its [SEG] on the model, as published scores do; "generated" is what a user gets.
Images are encoded and answers are read or written once; then the mask of every hidden state is decoded (layer 0: the
embeddings). The best layer of each expression, taken by the truth, is above the last layer partly by luck: the best of
several masks is better than one of them. The null of it is the best of as many masks of the last layer alone, the
undisturbed one and others with dropout on the [SEG] state; of several rates of dropout the one that gains most is used.
"Highest point" is the share of targets on which the similarity map is highest: the map over a layer's image tokens,
with which UGround prompts, and that over SAM's image embedding, as READ draws it.
"More than noise" is a gain in IoU above what {NOISE:.0%} of the expressions gain from redraws, and above {LEAST}. Only
expressions that have a target and got a mask can depend on the layer. Intervals: 95 %, by bootstrap over images.</p>
</details>
"""


def _facts(report: Mapping[str, Any], rows: Path, selected_on: str | None) -> str:
    checkpoint, protocol = report["checkpoint"], report["protocol"]
    limit = "all images" if protocol["limit"] is None else f"the first {protocol['limit']} images of each split"
    facts = {
        "checkpoint": checkpoint["version"],
        "system": checkpoint["system"],
        "weights (SHA-256)": checkpoint["sha256"],
        "selected on": selected_on or "not recorded in the checkpoint (--selected_on names it)",
        "splits": ", ".join(report["audit"]) + f" ({limit}, {report['dataset_dir']})",
        "run with": f"{checkpoint['dtype']} on {checkpoint['device']}; "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "rows": rows.name,
    }
    facts["command"] = shlex.join(report["command"])
    return facts_list({name: str(fact) for name, fact in facts.items()})


def _finding(found: Mapping[str, Any], report: Mapping[str, Any], selected: bool) -> str:
    """What the numbers say, in words; selected: the checkpoint was selected on this split."""
    words = [
        f"{found['expressions']} expressions of {found['images']} images; {found['layered']} have a target and a mask."
    ]
    if found["depth"] == 1:
        words.append(f"{report['checkpoint']['system']} always uses the last layer: there are no layers to compare.")
    if f"{GREEDY} - {LAST}" in found["differences"]:
        words.append(f"The policy's layer against the last: {_verdict(found['differences'][f'{GREEDY} - {LAST}'])}.")
    elif found["depth"] > 1:
        words.append("No policy was trained (mode 1): the last layer is used.")
    gains = found.get("gains")
    if gains:
        above = gains["above_noise"]
        words.append(
            f"The best of {found['depth']} layers gains {_signed(gains['layers'])} IoU over the last, the best of "
            f"{found['depth']} redraws of the last layer {_signed(gains['luck'])} by luck; beyond luck "
            f"<strong>{_verdict(gains['beyond_luck'])}</strong>. For {_percent(above['layers'])} of them another layer "
            f"is better by more than noise ({percent(found['noise'])}), and for {_percent(above['redraws'])} a redraw."
        )
    elif found["depth"] > 1 and not found["layered"]:
        words.append("No mask depends on the layer: nothing is said of layers.")
    if selected:
        words.append("<strong>The checkpoint was selected on this split: its scores here are too good.</strong>")
    return " ".join(words)


def _verdict(quantity: Mapping[str, Any]) -> str:
    """A difference with its interval, and whether it is one."""
    bounds = quantity["ci95"]
    if quantity["value"] is None:
        return "none"
    if bounds is None:
        return f"{_number(quantity['value'])} (one image: no interval)"
    if quantity["value"] == bounds[0] == bounds[1] == 0:
        return "the same"
    if bounds[0] <= 0 <= bounds[1]:
        return f"{_signed(quantity)}, no difference shown"
    return f"{_signed(quantity)}, {'better' if quantity['value'] > 0 else 'worse'}"


def _signed(quantity: Mapping[str, Any]) -> str:
    value, bounds = quantity["value"], quantity["ci95"]
    if value is None:
        return "none"
    shown = _number(value)
    return shown if bounds is None else f"{shown} ({_number(bounds[0])} to {_number(bounds[1])})"


def _number(value: float) -> str:
    """A signed number of points; 0.0 without a sign."""
    return percent(value, "+") if round(value, 3) else "0.0"


def _percent(quantity: Mapping[str, Any]) -> str:
    value, bounds = quantity["value"], quantity["ci95"]
    if value is None:
        return "none"
    return f"{100 * value:.1f} %" + ("" if bounds is None else f" ({100 * bounds[0]:.1f}–{100 * bounds[1]:.1f})")


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *lines = rows
    cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>\n" for line in lines)
    return (
        f'<div class="table" tabindex="0" role="group" aria-label="Table: {html.escape(", ".join(head))}">'
        f"<table><tr>{cells}</tr>\n{body}</table></div>\n"
    )


def _scores(found: Mapping[str, Any]) -> str:
    rows = [["masks from", "gIoU", "cIoU", "gIoU − last layer's"]]
    for name, scores in found["scores"].items():
        difference = found["differences"].get(f"{name} - {LAST}")
        shown = "" if difference is None else _signed(difference)
        rows.append([TITLES.get(name, name), _percent(scores["gIoU"]), _percent(scores["cIoU"]), shown])
    beyond = found["differences"].get(f"{ORACLE} - {REDRAWN}")
    if beyond is not None:
        rows.append(["best layer beyond luck", "", "", _signed(beyond)])
    rates = ", ".join(f"{rate}: {_number(gain)}" for rate, gain in found["rates"].items() if gain is not None)
    note = (
        f'<p class="soft">Luck by rate of dropout (mean gain in IoU): {rates}; {found["rate"]} is used.</p>'
        if rates
        else ""
    )
    return _table(rows) + note


def _kinds(found: Mapping[str, Any]) -> str:
    """What each kind of query scores, and what the layers gain for it."""
    kinds = sorted(found["kinds"], key=KIND_ORDER.index)
    names = [name for name in (LAST, GREEDY) if name in found["scores"]]
    scores = [["kind of query", "expressions", *(f"gIoU, {name}" for name in names)]]
    gains = [
        ["kind of query", "with a mask", "best layer gains", "luck", "beyond luck", "above noise", "redraws above"]
    ]
    for kind in kinds:
        one = found["kinds"][kind]
        scores.append([kind, str(one["expressions"]), *(_percent(one[f"gIoU {name}"]) for name in names)])
        if found.get("gains") is not None and one["layered"]:
            shown = [_signed(one[name]) for name in ("layers", "luck", "beyond_luck")]
            shares = [_percent(one["above_noise"][name]) for name in ("layers", "redraws")]
            gains.append([kind, str(one["layered"]), *shown, *shares])
    return _table(scores) + (_table(gains) if len(gains) > 1 else "")


# --- cases ------------------------------------------------------------------------------------------------------------


def _legend(layer: LayerImages) -> str:
    """What the images of a layer show, from above."""
    shown = []
    if layer.similarity is not None:
        shown.append(
            "the similarity of the [SEG] state to the image tokens of that layer (UGround prompts SAM with it)"
        )
    if layer.decoder_map is not None:
        shown.append("the similarity of the projected [SEG] state to SAM's image embedding, as READ draws it")
    shown.append("the mask, with a given answer")
    return f'<p class="soft">From above: {"; ".join(shown)}. Bright is similar.</p>\n'


def _case(case: Case) -> str:
    size = size_within(case.image, SIDE)
    small = np.asarray(Image.fromarray(case.image).resize(size, Image.Resampling.LANCZOS))
    target = resize_mask(case.truth, size)
    colours = choose_colours(small, [target])
    truth = overlay(small, [target], colours, dim=0.35)
    figures = [
        f"<figure>{_picture(small, 'image')}{_picture(truth, 'truth')}<figcaption>image, truth</figcaption></figure>"
    ]
    figures += [_layer(small, size, one, colours) for one in case.layers]
    asked = f'<span class="asked">{html.escape(case.question)}</span>'
    return (
        f'<article class="case"><p>{asked} <span class="soft">({html.escape(case.title)})</span></p>'
        f'<div class="strip" tabindex="0" role="group" aria-label="Layers">{"".join(figures)}</div></article>\n'
    )


def _layer(small: np.ndarray, size: tuple[int, int], layer: LayerImages, colours: Sequence[Colour]) -> str:
    images = [
        _picture(heat_map(small, _resized(one, size)), name)
        for name, one in (
            ("similarity to image tokens", layer.similarity),
            ("similarity to SAM's embedding", layer.decoder_map),
        )
        if one is not None
    ]
    images.append(_picture(overlay(small, [resize_mask(layer.mask, size)], colours, dim=0.35), "mask"))
    probability = "" if layer.probability is None else f", p {layer.probability:.2f}"
    caption = f"{layer.name}<br>IoU {percent(layer.iou)}{probability}"
    return f"<figure>{''.join(images)}<figcaption>{caption}</figcaption></figure>"


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def _picture(image: np.ndarray, name: str) -> str:
    return f'<img src="data:image/jpeg;base64,{inline_image(image)}" alt="{name}">'
