"""A training step, an evaluation and a generation of the bench model, beside the reference's numbers.

    python -m benchmarks.step                      all three, about a minute on two idle cores
    python -m benchmarks.step --work train --system LISA --conversations 6
    python -m benchmarks.step --plain_rows         one row a conversation, as the reference lays them out

The reference's numbers and the limits hold for the default shape and UGround; on others the ratios are left out.
FLOPs are those of PyTorch's counter plus the CPU's attention kernel, which it leaves out. Seconds need an idle machine;
CPU seconds (all cores together) suffer less from neighbours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from groundscore.errors import run_main

if TYPE_CHECKING:
    from benchmarks.bench_model import BenchShape
    from benchmarks.measuring import Cost

SYSTEMS = ("UGround", "LISA", "READ", "GSVA", "SESAME")
PROMPT_TOKENS, NEW_TOKENS = 60, 32


@dataclass(frozen=True)
class Yardstick:
    """What the reference implementation takes, and the largest share of it that this one may take; None: no limit.

    seconds: the lower end of what was measured for it.
    """

    gflops: float
    seconds: float | None = None
    peak_gb: float | None = None
    gflops_share: float = 1.0
    seconds_share: float | None = None
    peak_share: float | None = None


REFERENCE = {
    "train": Yardstick(1334.9, 17.0, 6.9, gflops_share=0.35, seconds_share=0.35, peak_share=0.50),
    "evaluate": Yardstick(267.8, gflops_share=0.40),
    "generate": Yardstick(2456.7, 19.0, gflops_share=0.03),
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
        flags.json.write_text(json.dumps({"shape": asdict(shape), "system": flags.system, "costs": costs}, indent=2))


def table_rows(name: str, cost: Cost, reference: Yardstick | None) -> list[str]:
    """Lines of a Markdown table: here, the reference, their ratio, the limit, and whether it holds."""
    rows = [
        ("GFLOP", cost.flops / 1e9, "gflops", "gflops_share"),
        ("seconds", cost.seconds, "seconds", "seconds_share"),
        ("peak GB", cost.peak_gb, "peak_gb", "peak_share"),
        ("CPU seconds", cost.cpu_seconds, None, None),
    ]
    lines = []
    for what, value, field, share in rows:
        there = getattr(reference, field) if reference and field else None
        limit = getattr(reference, share) if there and share else None
        ratio = value / there if there else None
        verdict = "" if limit is None else "holds" if ratio <= limit else "**missed**"
        lines.append(
            f"|{name}|{what}|{value:.2f}|{_number(there, '.1f')}|{_number(ratio, '.3f')}|{_number(limit, '.2f')}"
            f"|{verdict}|"
        )
    return lines


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


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
