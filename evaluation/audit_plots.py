"""The plots of an audit's page, as SVG: gIoU by layer, which layers are chosen and best, where their maps point.

All take what `groundscore.scoring.layers.summarise` found of one split asked in one way.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groundscore.scoring.layer_rows import DECODER, IMAGE_TOKENS
from groundscore.scoring.layers import GREEDY, ORACLE, REDRAWN

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 230, 44, 130, 26, 30
COLOURS = {"layers": "#3b76d0", GREEDY: "#d0763b", ORACLE: "#2f9e5b", REDRAWN: "#9a9a9a"}
COLOURS |= {IMAGE_TOKENS: "#3b76d0", DECODER: "#b04fb8"}


def _frame(title: str, high: float, low: float, marks: Sequence[str], percent: bool) -> tuple[str, Any, Any]:
    """An SVG's beginning with its axes, and the functions from index and value to pixels."""
    span = (high - low) or 1.0

    def x(index: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (index + 0.5) / len(marks)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / span)

    parts = [f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" ']
    parts[0] += f'aria-label="{html.escape(title)}">'
    parts.append(f'<text x="{LEFT}" y="15">{html.escape(title)}</text>')
    for value in np.linspace(low, high, 4):
        shown = f"{100 * value:.0f} %" if percent else f"{100 * value:.1f}"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="var(--line)"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{shown}</text>'
        )
    step = max(1, len(marks) // 12)
    parts += [
        f'<text x="{x(index):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{mark}</text>'
        for index, mark in enumerate(marks)
        if index % step == 0 or index == len(marks) - 1
    ]
    return "".join(parts), x, y


def curve_plot(found: Mapping[str, Any]) -> str:
    """gIoU of every layer with intervals; the policy, the best layer and the best redraw as lines across."""
    layers = [found["scores"][f"layer {layer}"]["gIoU"] for layer in range(found["depth"])]
    across = {
        name: found["scores"][name]["gIoU"]["value"] for name in (GREEDY, ORACLE, REDRAWN) if name in found["scores"]
    }
    values = [one["value"] for one in layers] + list(across.values())
    values += [bound for one in layers for bound in one["ci95"] or ()]
    marks = [str(layer) for layer in range(found["depth"])]
    head, x, y = _frame("gIoU % by layer", max(values), min(values), marks, percent=False)
    parts = [head]
    heights: list[float] = []
    for name, value in sorted(across.items(), key=lambda one: -one[1]):
        at = max(y(value) + 4, *(height + 12 for height in heights)) if heights else y(value) + 4
        heights.append(at)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="{COLOURS[name]}" stroke-width="1.5" stroke-dasharray="5 3"/>'
            f'<text x="{WIDTH - RIGHT + 6}" y="{at:.1f}" style="fill:{COLOURS[name]}">{name} {100 * value:.1f}</text>'
        )
    for index, one in enumerate(layers):
        if one["ci95"]:
            low, high = (y(bound) for bound in one["ci95"])
            parts.append(
                f'<line x1="{x(index):.1f}" x2="{x(index):.1f}" y1="{low:.1f}" y2="{high:.1f}" '
                f'stroke="{COLOURS["layers"]}" stroke-opacity="0.35" stroke-width="3"/>'
            )
    points = " ".join(f"{x(index):.1f},{y(one['value']):.1f}" for index, one in enumerate(layers))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS["layers"]}" stroke-width="2"/>')
    dots = (
        f'<circle cx="{x(i):.1f}" cy="{y(one["value"]):.1f}" r="3" fill="{COLOURS["layers"]}"/>'
        for i, one in enumerate(layers)
    )
    return "".join([*parts, *dots, "</svg>"])


def choices_plot(found: Mapping[str, Any]) -> str:
    """How often each layer is the policy's choice, and how often the best."""
    bars = {GREEDY: found["chosen"], ORACLE: found["best"]}
    shares = {name: [n / sum(counts) for n in counts] for name, counts in bars.items() if sum(counts)}
    if not shares:
        return ""
    high = max(share for of in shares.values() for share in of)
    head, x, y = _frame("share of layers", high, 0.0, [str(layer) for layer in range(found["depth"])], percent=True)
    parts, width = [head], (WIDTH - LEFT - RIGHT) / found["depth"] * 0.38
    for number, (name, of) in enumerate(shares.items()):
        shift = (number - (len(shares) - 1) / 2) * width
        for layer, share in enumerate(of):
            parts.append(
                f'<rect x="{x(layer) + shift - width / 2:.1f}" y="{y(share):.1f}" width="{width:.1f}" '
                f'height="{max(0.0, y(0) - y(share)):.1f}" fill="{COLOURS[name]}"/>'
            )
        label = "policy's choice" if name == GREEDY else "best layer"
        parts.append(
            f'<text x="{WIDTH - RIGHT + 6}" y="{TOP + 14 + 16 * number}" style="fill:{COLOURS[name]}">{label}</text>'
        )
    return "".join([*parts, "</svg>"])


def pointing_plot(found: Mapping[str, Any]) -> str:
    """How often each layer's map is highest on the target, a curve for each side that the maps are of."""
    sides = found.get("pointing")
    if not sides:
        return ""
    shares = {side: [one["value"] for one in layers.values()] for side, layers in sides.items()}
    marks = [str(layer) for layer in range(found["depth"])]
    head, x, y = _frame("highest point of the map on the target", 1.0, 0.0, marks, percent=True)
    parts, least = [head], 0.0
    for side, of in sorted(shares.items(), key=lambda one: -one[1][-1]):
        points = " ".join(f"{x(layer):.1f},{y(share):.1f}" for layer, share in enumerate(of))
        least = max(y(of[-1]) + 4, least)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[side]}" stroke-width="2"/>'
            f'<text x="{WIDTH - RIGHT + 6}" y="{least:.1f}" style="fill:{COLOURS[side]}">{side} {of[-1]:.0%}</text>'
        )
        least += 12
    return "".join([*parts, "</svg>"])
