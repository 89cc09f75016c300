"""A training step, an evaluation and a generation of the bench model, beside the reference's numbers.

    python -m benchmarks.step                      all three, about a minute on two idle cores
    python -m benchmarks.step --work train --system LISA --conversations 6
    python -m benchmarks.step --plain_rows         one row a conversation, as the reference lays them out

The reference's FLOPs and the limits hold for the default shape and UGround; on others the ratios are left out. Its
time and memory are measured beside ours by `python -m benchmarks.versus`. FLOPs are those of PyTorch's counter plus the
CPU's attention kernel, which it leaves out. Seconds need an idle machine; CPU seconds (all cores together) suffer less
from neighbours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from groundscore.errors import run_main
from groundscore.writing import write_json

if TYPE_CHECKING:
    from benchmarks.bench_model import BenchShape
    from benchmarks.measuring import Cost

SYSTEMS = ("UGround", "LISA", "READ", "GSVA", "SESAME")
PROMPT_TOKENS, NEW_TOKENS = 60, 32


@dataclass(frozen=True)
class Yardstick:
    """GFLOP of the reference implementation, and the largest share of them that this one may take."""

    gflops: float
    share: float


REFERENCE = {
    "train": Yardstick(1334.9, 0.35),
    "evaluate": Yardstick(267.8, 0.40),
    "generate": Yardstick(2456.7, 0.03),
}


def main(argv: Sequence[str]) -> None:
    """Prints the lines of each kind of work."""
    parser = benchmark_parser("step", __doc__)
    parser.add_argument("--work", choices=[*REFERENCE, "all"], default="all")
    parser.add_argument("--system", choices=SYSTEMS, default="UGround")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="images of a training batch")
    parser.add_argument("--conversations", type=int, default=3, metavar="N", help="conversations about each image")
    parser.add_argument("--segs", type=int, default=1, metavar="N", help="[SEG] per answer")
    parser.add_argument("--layers", type=int, default=8, metavar="N", help="layers of the LLM")
    parser.add_argument("--sam_image_size", type=int, default=1024, metavar="PIXELS")
    parser.add_argument("--plain_rows", action="store_true", help="one row a conversation")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed runs, the best counts (default: 3)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    flags = parser.parse_args(argv)
    _report(flags)


def _report(flags: argparse.Namespace) -> None:
    from benchmarks.bench_model import BenchShape
    from benchmarks.measuring import in_a_new_process

    shape = BenchShape(
        images=flags.images,
        conversations=flags.conversations,
        segs=flags.segs,
        labelled=max(BenchShape.labelled, flags.segs + 4),  # the answer must hold them
        layers=flags.layers,
        sam_image_size=flags.sam_image_size,
        packed=not flags.plain_rows,
    )
    comparable = replace(shape, packed=True) == BenchShape() and flags.system == "UGround"
    print("|work|what|here|reference|ratio|limit||\n|---|---|---|---|---|---|---|", flush=True)
    costs = {}
    for name in REFERENCE if flags.work == "all" else [flags.work]:
        cost = in_a_new_process(run, name, shape, flags.system, flags.repeats, flags.threads)
        costs[name] = asdict(cost)
        for row in table_rows(name, cost, REFERENCE[name] if comparable else None):
            print(row, flush=True)
    if flags.json:
        write_json(flags.json, {"shape": asdict(shape), "system": flags.system, "costs": costs})


def table_rows(name: str, cost: Cost, reference: Yardstick | None) -> list[str]:
    """Lines of a Markdown table: here, and of FLOPs the reference, their ratio, the limit, and whether it holds."""
    gflops = cost.flops / 1e9
    beside = "||||"
    if reference is not None:
        ratio = gflops / reference.gflops
        verdict = "holds" if ratio <= reference.share else "**missed**"
        beside = f"{reference.gflops:.1f}|{ratio:.3f}|{reference.share:.2f}|{verdict}|"
    rows = [("seconds", cost.seconds), ("peak GB", cost.peak_gb), ("CPU seconds", cost.cpu_seconds)]
    return [f"|{name}|GFLOP|{gflops:.2f}|{beside}", *(f"|{name}|{what}|{value:.2f}|||||" for what, value in rows)]


def run(name: str, shape: BenchShape, system: str, repeats: int, threads: int) -> Cost:
    """The `Cost` of one of the three works, in this process."""
    import torch

    from benchmarks.measuring import measure

    torch.set_num_threads(threads)
    return measure(work(name, shape, system), repeats)


def work(name: str, shape: BenchShape, system: str) -> Callable[[], object]:
    """The work itself, ready to be called: "train", "evaluate" or "generate"."""
    from benchmarks.bench_model import bench_batch, bench_model, bench_prompt

    model = bench_model(shape, system)
    if name == "train":
        batch = bench_batch(shape)

        def step():
            model.zero_grad()
            model(batch).loss.backward()

        return step
    model.eval()
    if name == "evaluate":
        batch = bench_batch(replace(shape, images=1))
        return lambda: model.segment(batch)
    prompt = bench_prompt(shape, PROMPT_TOKENS)
    model.config.text_config.eos_token_id = -1  # never written: every run writes all the tokens
    return lambda: model.generate(prompt, max_new_tokens=NEW_TOKENS)


if __name__ == "__main__":
    run_main(main)
