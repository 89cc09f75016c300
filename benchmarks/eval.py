"""What an expression costs in evaluation: batched as `eval.py` does it, against one expression at a time.

    python -m benchmarks.eval [--conversations 3] [--images 2] [--device cpu]

The first table is teacher-forced scoring, the second generation, on the bench model of `docs/performance.md` (or a
smaller one: `--small`). One expression at a time means what the reference's evaluation of false premises does: every
expression encodes its image, reads its prompt and decodes its mask alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from benchmarks.measuring import Cost, measure
from benchmarks.step import REFERENCE
from groundscore.errors import run_main
from groundscore.writing import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.bench_model import BenchShape
    from dataloaders.batching.batch import Batch
    from model.grounding import GroundingModel


def main(argv: Sequence[str]) -> None:
    """Prints a table for each protocol; with --out also writes the numbers."""
    parser = benchmark_parser("eval", __doc__)
    parser.add_argument("--images", type=int, default=1, help="images in the batch (1)")
    parser.add_argument("--conversations", type=int, default=3, help="expressions of every image (3)")
    parser.add_argument("--system", default="UGround", help="system (UGround)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a generated answer (16)")
    parser.add_argument("--repeat", type=int, default=2, help="timed runs, the fastest counts (2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--small", action="store_true", help="a model of width 64, for a quick look")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args(argv)

    from benchmarks.bench_model import BenchShape, bench_model

    shape = BenchShape(images=options.images, conversations=options.conversations)
    if options.small:
        shape = replace(shape, layers=2, width=64, mlp=128, heads=2, sam_image_size=256, clip_image_size=112)
    model = bench_model(shape, options.system).eval().to(options.device)
    costs = {"teacher-forced": compare(model, shape, score, options.repeat)}
    costs[f"{options.tokens} tokens generated"] = compare(
        model, shape, lambda model, batch: model.generate(batch, max_new_tokens=options.tokens), options.repeat
    )
    for name, (batched, single) in costs.items():
        print(table(name, shape, batched, single) + "\n")
    if shape == BenchShape(images=1) and options.system == "UGround":
        gflops, reference = costs["teacher-forced"][0].flops / 1e9, REFERENCE["evaluate"].gflops
        print(f"teacher-forced: {gflops:.1f} GFLOP in all, {gflops / reference:.2f} of the reference's {reference:.1f}")
    if options.out:
        content = {
            name: {"batched": numbers(both[0]), "one at a time": numbers(both[1])} for name, both in costs.items()
        }
        write_json(options.out, {"shape": asdict(shape), **content})


def compare(model: GroundingModel, shape: BenchShape, work: Callable, repeat: int) -> tuple[Cost, Cost]:
    """What `work(model, batch)` costs for all expressions of a shape: in one batch, and one at a time."""
    from benchmarks.bench_model import bench_batch

    together = bench_batch(shape).to(model.device)
    alone = bench_batch(replace(shape, images=1, conversations=1)).to(model.device)
    expressions = shape.images * shape.conversations
    batched, one = (measure(lambda batch=batch: work(model, batch), repeat) for batch in (together, alone))
    return batched, replace(
        one,
        flops=one.flops * expressions,
        seconds=one.seconds * expressions,
        cpu_seconds=one.cpu_seconds * expressions,
    )


def numbers(cost: Cost) -> dict[str, float]:
    """All but the peak of memory, which is that of the whole process so far."""
    content = asdict(cost)
    del content["peak_gb"]
    return content


def score(model: GroundingModel, batch: Batch) -> Tensor:
    """What the evaluation does with a batch on the device: force, threshold, count."""
    import torch

    forced = model.force(batch, batch.seg_positions[:, 0])
    counts = [
        torch.stack([(drawn & truth).flatten(1).sum(1), drawn.flatten(1).sum(1), truth.flatten(1).sum(1)])
        for drawn, truth in ((logits > 0, masks) for logits, masks in zip(forced.mask_logits, batch.masks, strict=True))
    ]
    return torch.cat(counts, dim=1).cpu()


def table(name: str, shape: BenchShape, batched: Cost, single: Cost) -> str:
    """Markdown: GFLOP and seconds per expression, and the ratio of both."""
    expressions = shape.images * shape.conversations
    lines = [
        f"{name}: {shape.images} image(s) with {shape.conversations} expression(s) each",
        "",
        "| | GFLOP per expression | seconds per expression |",
        "|---|---|---|",
    ]
    for row, one in (("batched", batched), ("one at a time", single)):
        lines.append(f"| {row} | {one.flops / expressions / 1e9:.1f} | {one.seconds / expressions:.3f} |")
    lines.append(f"| ratio | {batched.flops / single.flops:.2f} | {batched.seconds / single.seconds:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
