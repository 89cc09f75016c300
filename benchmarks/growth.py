"""How the cost of a training step grows; a plot each for what can grow.

    python -m benchmarks.growth                    writes docs/growth_*.png and prints the numbers, in some minutes
    python -m benchmarks.growth --only conversations --folder /tmp

Nothing is computed: FLOPs and the memory that a step keeps for its backward pass are counted from shapes.
A dotted line is what proportional growth from the first point would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from groundscore.errors import run_main

if TYPE_CHECKING:
    from benchmarks.bench_model import BenchShape


@dataclass(frozen=True)
class Axis:
    """title: what grows; values: of it; shape: what is measured at a value; plain: also with one row a conversation."""

    title: str
    values: tuple[int, ...]
    shape: Callable[[BenchShape, int], BenchShape]
    plain: bool = False


def _targets(base: BenchShape, count: int) -> BenchShape:
    return replace(base, segs=count, labelled=max(base.labelled, count + 4))  # the answer must hold them


def _image(base: BenchShape, width: int) -> BenchShape:
    return replace(base, height=width * 3 // 4, width_pixels=width)


AXES = {
    "conversations": Axis(
        "conversations per image", (1, 3, 6, 12, 24), lambda base, n: replace(base, conversations=n), plain=True
    ),
    "targets": Axis("[SEG] per answer", (1, 4, 16), _targets),
    "layers": Axis("layers of the LLM", (4, 8, 16, 32), lambda base, n: replace(base, layers=n)),
    "picture": Axis("width of the original images, pixels", (640, 1280, 2560, 4000), _image),
    "sam_side": Axis(
        "side of SAM's square, pixels", (256, 512, 1024, 1536), lambda base, n: replace(base, sam_image_size=n)
    ),
    "batch": Axis("images per batch", (1, 2, 4, 8), lambda base, n: replace(base, images=n), plain=True),
}


def main(argv: Sequence[str]) -> None:
    """Prints the numbers and writes a plot of every axis."""
    parser = benchmark_parser("growth", __doc__)
    parser.add_argument("--only", choices=AXES, metavar="AXIS", help=f"one of {', '.join(AXES)} (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("docs"), metavar="DIR")
    flags = parser.parse_args(argv)
    from benchmarks.bench_model import BenchShape

    flags.folder.mkdir(parents=True, exist_ok=True)
    for name in [flags.only] if flags.only else AXES:
        lines = grow(AXES[name], BenchShape())
        for label, points in lines.items():
            for value, gflops, gigabytes in points:
                print(f"|{AXES[name].title}|{value}|{label}|{gflops:.1f} GFLOP|{gigabytes:.2f} GB|", flush=True)
        draw(AXES[name], lines, flags.folder / f"growth_{name}.png")


def grow(axis: Axis, base: BenchShape) -> dict[str, list[tuple[int, float, float]]]:
    """For every layout the points (value, GFLOP of a step, GB kept for its backward pass); `base`: all else."""
    from benchmarks.counting import count_step

    lines = {}
    for label, packed in (("packed rows", True), ("plain rows", False)):
        if packed or axis.plain:
            lines[label] = []
            for value in axis.values:
                count = count_step(replace(axis.shape(base, value), packed=packed))
                lines[label].append((value, count.flops / 1e9, count.kept_bytes / 1e9))
    return lines


def draw(axis: Axis, lines: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Writes a plot: FLOPs on the left, memory on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.2), dpi=110, layout="constrained")
    for column, (panel, unit) in enumerate(zip(panels, ("GFLOP per step", "GB kept for backward")), start=1):
        for label, points in lines.items():
            values, costs = [point[0] for point in points], [point[column] for point in points]
            panel.plot(values, costs, marker="o", label=label)
        first = next(iter(lines.values()))[0]
        proportional = [first[column] * value / first[0] for value in (axis.values[0], axis.values[-1])]
        panel.plot((axis.values[0], axis.values[-1]), proportional, ":", color="grey", label="proportional")
        panel.set(xlabel=axis.title, ylabel=unit, xticks=axis.values)
        panel.set_ylim(0, 1.15 * max(point[column] for points in lines.values() for point in points))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run_main(main)
