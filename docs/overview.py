"""Draws docs/overview.png, README's image: `.venv/bin/python docs/overview.py` (needs ./build.sh --dev)."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Patch, Polygon, Rectangle

INK, SOFT, LINE = "#1f2933", "#616e7c", "#9aa5b1"
IMAGE, TEXT, SEG, POLICY = "#3b82c4", "#b8c2cc", "#e8590c", "#7048a8"
FROZEN, TRAINED = "#eef2f6", "#fdf1e3"
LAYERS, CHOSEN = 7, 4
WIDTH, HEIGHT = 16.2, 6.7


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    label: str,
    *,
    color: str = FROZEN,
    edge: str = LINE,
    size: float = 11,
) -> None:
    """A rounded box with its label in the middle; x, y: its lower left corner."""
    patch = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", facecolor=color, edgecolor=edge, linewidth=1.3
    )
    axes.add_patch(patch)
    axes.text(x + width / 2, y + height / 2, label, ha="center", va="center", fontsize=size, color=INK)


def arrow(
    axes: Axes, points: list[tuple[float, float]], *, color: str = SOFT, dashed: bool = False, width: float = 1.7
) -> None:
    """A polyline through `points` with a head at its end."""
    style = (0, (4, 3)) if dashed else "solid"
    for (x0, y0), (x1, y1) in zip(points[:-2], points[1:-1], strict=True):
        axes.plot([x0, x1], [y0, y1], color=color, linewidth=width, linestyle=style, solid_capstyle="round")
    axes.add_patch(
        FancyArrowPatch(
            points[-2],
            points[-1],
            arrowstyle="-|>,head_length=6,head_width=3.2",
            color=color,
            linewidth=width,
            linestyle=style,
            shrinkA=0,
            shrinkB=0,
            joinstyle="miter",
        )
    )


def scene(axes: Axes, x: float, y: float, side: float) -> None:
    """A table with a mug and an apple: the image that is asked about."""

    def add(patch: Patch) -> None:
        axes.add_patch(patch)
        patch.set_clip_path(frame)

    frame = Rectangle((x, y), side, side, facecolor="#dbe9f4", edgecolor=INK, linewidth=1.2)
    axes.add_patch(frame)
    add(Rectangle((x, y), side, 0.36 * side, facecolor="#c9a27a", edgecolor="none"))
    mug(axes, x, y, side, "#2f9e8f", "#1d6f64", frame)
    add(Circle((x + 0.27 * side, y + 0.36 * side), 0.14 * side, facecolor="#d64545", edgecolor="#9b2c2c"))
    add(Polygon(
        [(x + 0.27 * side, y + 0.49 * side), (x + 0.37 * side, y + 0.6 * side), (x + 0.4 * side, y + 0.53 * side)],
        facecolor="#5b9e3f", edgecolor="none",
    ))  # fmt: skip
    axes.add_patch(Rectangle((x, y), side, side, facecolor="none", edgecolor=INK, linewidth=1.2, zorder=5))


def mug(axes: Axes, x: float, y: float, side: float, face: str, edge: str, frame: Rectangle) -> None:
    """The mug of `scene`, clipped to its frame."""
    ring = Ellipse((x + 0.85 * side, y + 0.5 * side), 0.2 * side, 0.24 * side, fill=False, edgecolor=edge, linewidth=4)
    body = Rectangle((x + 0.52 * side, y + 0.27 * side), 0.32 * side, 0.44 * side, facecolor=face, edgecolor=edge)
    rim = Ellipse((x + 0.68 * side, y + 0.71 * side), 0.32 * side, 0.09 * side, facecolor=edge, edgecolor=edge)
    for patch in (ring, body, rim):
        axes.add_patch(patch)
        patch.set_clip_path(frame)


def similarity_map(axes: Axes, x: float, y: float, side: float, cells: int = 12) -> None:
    """A map that is high where the mug is, and a little where the apple is."""
    row, column = np.mgrid[0:cells, 0:cells] / (cells - 1)
    values = np.exp(-(((column - 0.7) / 0.2) ** 2 + ((row - 0.5) / 0.24) ** 2))
    values = values + 0.12 * np.exp(-(((column - 0.25) / 0.2) ** 2 + ((row - 0.64) / 0.2) ** 2))
    axes.imshow(values, extent=(x, x + side, y, y + side), cmap="magma", zorder=2, aspect="auto")
    axes.add_patch(Rectangle((x, y), side, side, facecolor="none", edgecolor=INK, linewidth=1.2, zorder=3))


def masked_scene(axes: Axes, x: float, y: float, side: float) -> None:
    """The mask of the mug."""
    frame = Rectangle((x, y), side, side, facecolor="#20262d", edgecolor=INK, linewidth=1.2)
    axes.add_patch(frame)
    mug(axes, x, y, side, "white", "white", frame)


def unrolled_layers(axes: Axes, x: float, y: float, spacing: float) -> tuple[list[float], dict[str, float], float]:
    """One column of token states per layer, from `y` upwards in the order of the sequence.

    Returns the x of each column's centre, the middles of the token groups in y, and the top.
    """
    cell, groups = 0.28, (("system", TEXT, 1), ("image", IMAGE, 5), ("question", TEXT, 2), ("seg", SEG, 1))
    centres = [x + spacing * layer for layer in range(LAYERS)]
    middles, top = {}, y
    for name, color, count in groups:
        middles[name] = top + cell * count / 2
        for _ in range(count):
            for layer, centre in enumerate(centres):
                face = color if layer == CHOSEN or color == TEXT else color + "90"
                axes.add_patch(
                    Rectangle((centre - cell / 2, top), cell, cell, facecolor=face, edgecolor="white", linewidth=1.2)
                )
            top += cell
    axes.add_patch(
        FancyBboxPatch(
            (centres[CHOSEN] - 0.21, y - 0.06), 0.42, top - y + 0.12,
            boxstyle="round,pad=0,rounding_size=0.08", facecolor="none", edgecolor=POLICY, linewidth=2.2, zorder=4,
        )
    )  # fmt: skip
    for centre, name in zip(centres, ["$h_0$", "$h_1$", "…", "…", "$h_a$", "…", "$h_L$"], strict=True):
        axes.text(centre, y - 0.25, name, ha="center", va="center", fontsize=12.5, color=INK)
    return centres, middles, top


def draw() -> plt.Figure:
    """The whole image."""
    figure = plt.figure(figsize=(WIDTH, HEIGHT), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")

    # Title and legend.
    axes.text(0.3, 6.25, "UGround", fontsize=19, weight="bold", color=INK, va="center")
    axes.text(0.3, 5.85, "policy-prompted masking", fontsize=12.5, color=SOFT, va="center")
    for index, (color, name) in enumerate(((FROZEN, "frozen"), (TRAINED, "trained"))):
        box(axes, 0.3 + 1.45 * index, 5.22, 0.34, 0.24, "", color=color)
        axes.text(0.73 + 1.45 * index, 5.34, name, fontsize=11, color=SOFT, va="center")

    # What goes in.
    image_y = 2.45
    scene(axes, 0.3, image_y - 0.8, 1.6)
    box(axes, 0.3, 3.65, 2.3, 0.85, "“Which of these could\nhold hot tea?”", color="white", size=11)
    box(axes, 2.45, image_y - 0.35, 1.05, 0.7, "CLIP", size=12)
    arrow(axes, [(1.9, image_y), (2.45, image_y)])

    # The unrolled transformer.
    axes.add_patch(
        FancyBboxPatch(
            (4.1, 1.15), 5.0, 3.75, boxstyle="round,pad=0,rounding_size=0.18",
            facecolor="#f8fafc", edgecolor=LINE, linewidth=1.3, zorder=0,
        )
    )  # fmt: skip
    centres, middles, top = unrolled_layers(axes, 4.82, 1.75, 0.63)
    axes.text(4.3, 4.63, "LLaVA with LoRA, unrolled", fontsize=11.5, color=INK, va="center")
    first = centres[0] - 0.2
    arrow(axes, [(3.5, image_y), (3.8, image_y), (3.8, middles["image"]), (first, middles["image"])], color=IMAGE)
    question = [(2.6, 4.07), (3.8, 4.07), (3.8, middles["question"]), (first, middles["question"])]
    arrow(axes, question)
    axes.text(first - 0.05, middles["seg"], "[SEG]", ha="right", va="center", fontsize=10, color=SEG)
    axes.text(6.6, 0.9, "answer: “It is the mug [SEG].”", ha="center", va="center", fontsize=11.5, color=SOFT)

    # The policy above it.
    box(axes, 4.1, 5.3, 5.0, 1.2, "", color=TRAINED, edge=POLICY)
    axes.text(4.3, 6.25, "layer policy π", fontsize=12, color=POLICY, va="center", weight="bold")
    axes.text(8.9, 6.25, "one layer $a$ per [SEG]", fontsize=11.5, color=INK, va="center", ha="right")
    for layer, (centre, height) in enumerate(zip(centres, (0.1, 0.16, 0.24, 0.4, 0.58, 0.34, 0.2), strict=True)):
        color = POLICY if layer == CHOSEN else POLICY + "60"
        axes.add_patch(Rectangle((centre - 0.15, 5.42), 0.3, height, facecolor=color))
    arrow(axes, [(centres[CHOSEN], 5.3), (centres[CHOSEN], top + 0.08)], color=POLICY, width=2.4)

    # From the chosen layer to the two prompts.
    side, map_x, product_x = 1.5, 10.35, 9.68
    product_y = middles["image"]
    right = centres[CHOSEN] + 0.23
    similarity_map(axes, map_x, product_y - side / 2, side)
    axes.text(map_x + side / 2, product_y - 0.95, "similarity map", ha="center", va="center", fontsize=11, color=SOFT)
    arrow(axes, [(right, product_y), (product_x - 0.17, product_y)], color=IMAGE)
    arrow(axes, [(product_x, middles["seg"]), (product_x, product_y + 0.17)], color=SEG)
    axes.add_patch(Circle((product_x, product_y), 0.16, facecolor="white", edgecolor=INK, linewidth=1.4, zorder=4))
    axes.add_patch(Circle((product_x, product_y), 0.045, facecolor=INK, zorder=5))
    arrow(axes, [(product_x + 0.17, product_y), (map_x, product_y)])
    box(axes, map_x, middles["seg"] - 0.3, side, 0.6, "projection", color=TRAINED)
    arrow(axes, [(right, middles["seg"]), (map_x, middles["seg"])], color=SEG)

    # SAM.
    decoder_x = 13.15
    box(axes, decoder_x, 1.65, 1.05, 3.0, "SAM\nmask\ndecoder", color=TRAINED, size=12)
    for y, name in ((middles["seg"], "text prompt"), (product_y, "mask prompt")):
        arrow(axes, [(map_x + side, y), (decoder_x, y)])
        axes.text(decoder_x - 0.56, y + 0.16, name, ha="center", va="center", fontsize=10, color=SOFT)
    box(axes, map_x - 0.25, 0.2, 2.0, 0.65, "SAM image encoder")
    arrow(axes, [(1.1, image_y - 0.8), (1.1, 0.52), (map_x - 0.25, 0.52)])
    arrow(axes, [(map_x + 1.75, 0.52), (decoder_x + 0.52, 0.52), (decoder_x + 0.52, 1.65)])
    masked_scene(axes, 14.6, 3.15 - 0.7, 1.4)
    arrow(axes, [(decoder_x + 1.05, 3.15), (14.6, 3.15)])
    axes.text(15.3, 2.22, "mask", ha="center", va="center", fontsize=11, color=SOFT)

    # What the policy learns from.
    loss_x = map_x + side + 0.15
    axes.plot([map_x + side, loss_x], [product_y - 0.45] * 2, color=POLICY, linewidth=1.7, linestyle=(0, (4, 3)))
    arrow(axes, [(loss_x, product_y - 0.45), (loss_x, 5.9), (9.1, 5.9)], color=POLICY, dashed=True)
    axes.text(9.35, 6.12, "training: reward = − map loss", va="center", fontsize=11, color=POLICY)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("overview.png"))
