"""How the cost of a training step grows; a plot each for what can grow.

    python -m benchmarks.growth                    writes docs/growth_*.png and prints the numbers, in some minutes
    python -m benchmarks.growth --only conversations --folder /tmp

Nothing is computed: FLOPs and the memory that a step keeps for its backward pass are counted from shapes.
A dotted line is what proportional growth from the first point would be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench_model import BenchShape
from utils.errors import run_main


@dataclass(frozen=True)
class Axis:
    """title: what grows; field: of `BenchShape`; values: of it; plain: also with one row a conversation."""

    title: str
    field: str
    values: tuple[int, ...]
    plain: bool = False


AXES = {
    "conversations": Axis("conversations per image", "conversations", (1, 3, 6, 12), plain=True),
    "targets": Axis("[SEG] per answer", "segs", (1, 4, 16)),
    "layers": Axis("layers of the LLM", "layers", (4, 8, 16, 32)),
    "sam_side": Axis("side of SAM's square, pixels", "sam_image_size", (256, 512, 1024, 1536)),
    "batch": Axis("images per batch", "images", (1, 2, 4, 8), plain=True),
}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=AXES, help="one of them (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("docs"), metavar="DIR")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args(argv)
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
                shape = replace(base, packed=packed, **{axis.field: value})
                if axis.field == "segs":  # the answer must hold them
                    shape = replace(shape, labelled=max(shape.labelled, value + 4))
                count = count_step(shape)
                lines[label].append((value, count.flops / 1e9, count.kept_bytes / 1e9))
    return lines


def draw(axis: Axis, lines: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """One picture: FLOPs at the left, memory at the right."""
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
