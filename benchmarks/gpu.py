"""Does training at full size work on this GPU, and how fast? Random weights, nothing is downloaded, about ten minutes.

    python -m benchmarks.gpu                                   7B with SAM ViT-H, bf16, LoRA r 8, on one GPU of 80 GB
    python -m benchmarks.gpu --only memory throughput          some of the checks
    python -m benchmarks.gpu --size tiny --device cpu          that it runs, without a GPU

One line for each check, and all numbers in a JSON file. Everything goes through the training engine of `train_ds.py`
(DeepSpeed, ZeRO 2, overlap, fused AdamW, gradient checkpointing), with padded CLIP images. A check that fails or runs
out of memory is reported and the others continue; checks that need CUDA are skipped on a CPU. The exit code is 1 if one
failed.

    zero2        ZeRO 2 with overlap and fused AdamW trains as the plain engine does
    attention    the kernel that packed rows get, forward and backward, and those that would take them
    lengths      a step's time over 20 different lengths
    packed       packed rows against plain ones
    waits        no operation of a micro-batch makes the host wait
    resume       a checkpoint is written, and training resumes from it
    generation   64 prompts at a time: tokens/s and peak memory
    sam          SAM's encoder in bf16 against float32
    workers      whether 4 workers keep up
    gate         the policy's entropy over 100 steps
    memory       peak of the published recipe, 12-megapixel images with 9 masks, on cards of 24, 40 and 80 GiB
    throughput   samples/s and MFU, packed and plain, eager and compiled

MFU is FLOPs over seconds over the peak of the GPU (--tflops; 989 is an H100, 312 an A100, both bf16). Recomputed
activations count as work here, since they are counted in the FLOPs; the LLM's forward MFU has none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import benchmark_parser
from groundscore.errors import UserError, run_main
from groundscore.writing import write_json

if TYPE_CHECKING:
    from benchmarks.gpu_checks import Finding
    from benchmarks.gpu_training import Bench

BUDGET = 600.0  # seconds


def main(argv: Sequence[str]) -> int:
    """Runs the checks; returns 1 if one failed, else 0."""
    parser = benchmark_parser("gpu", __doc__)
    parser.add_argument("--size", choices=("tiny", "bench", "7b", "13b"), default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these checks alone")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks_gpu.json"), metavar="FILE")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="S", help="no check begins later (600 s)")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="images per micro-batch")
    parser.add_argument("--conversations", type=int, default=3, metavar="N", help="conversations about each image")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="timed steps of each speed, after two")
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="answers generated at a time")
    parser.add_argument("--new_tokens", type=int, default=32, metavar="N", help="tokens of each answer")
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="that the workers read")
    parser.add_argument("--lengths", type=int, default=20, metavar="N", help="different lengths of rows")
    parser.add_argument("--gate_steps", type=int, default=100, metavar="N", help="steps of the policy's check")
    parser.add_argument("--tokenizer", type=Path, default=Path("miniature/weights/llava"), metavar="DIR")
    parser.add_argument("--tflops", type=float, default=989.0, help="the GPU's bf16 peak")
    return run_checks(parser.parse_args(argv))


def run_checks(flags: argparse.Namespace) -> int:
    """Print a line for each check and write the JSON file; returns the exit code."""
    import torch

    from benchmarks.bench_model import SIZES
    from benchmarks.gpu_checks import CHECKS
    from benchmarks.gpu_training import Bench
    from utils.distributed import join_world

    if flags.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU is visible; --size tiny --device cpu shows that the benchmark runs")
    unknown = set(flags.only or ()) - set(CHECKS)
    if unknown:
        raise UserError(f"--only {', '.join(sorted(unknown))}: the checks are {', '.join(CHECKS)}")
    world = join_world(flags.device)
    bench = Bench(
        shape=replace(SIZES[flags.size], images=flags.images, conversations=flags.conversations),
        world=world,
        precision="bf16" if flags.device == "cuda" else "fp32",
        steps=flags.steps,
        new_tokens=flags.new_tokens,
        prompts=flags.prompts,
        tflops=flags.tflops,
        tokenizer=flags.tokenizer,
        samples=flags.samples,
        lengths=flags.lengths,
        gate_steps=flags.gate_steps,
    )
    card = torch.cuda.get_device_name() if flags.device == "cuda" else "CPU"
    print(f"{card}, {flags.size}, {bench.precision}, torch {torch.__version__}", flush=True)
    began, results = time.monotonic(), {}
    for name in flags.only or CHECKS:
        if time.monotonic() - began > flags.budget:
            results[name] = {"status": "left out", "text": f"the budget of {flags.budget:.0f} s is used up"}
        else:
            results[name] = run_check(CHECKS[name], bench)
        print(f"{results[name]['status']:<9}{name:<12}{results[name]['text']}", flush=True)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"card": card, "size": flags.size, "precision": bench.precision, "torch": torch.__version__}
    write_json(flags.out, content | {"checks": results})
    print(f"{time.monotonic() - began:.0f} s; all numbers: {flags.out}")
    world.close()
    return int(any(result["status"] == "failed" for result in results.values()))


def run_check(check: Callable[[Bench], Finding], bench: Bench) -> dict[str, Any]:
    """Returns status, text and numbers of one check; an exception of it is a failure, not the end."""
    from benchmarks.gpu_checks import NeedsCuda

    began = time.monotonic()
    try:
        finding = check(bench)
        result = {"status": "ok" if finding.ok else "failed", "text": finding.text, "numbers": finding.numbers}
    except NeedsCuda as reason:
        result = {"status": "skipped", "text": f"no CUDA ({reason})"}
    except Exception as error:  # of any kind: the other checks go on
        result = {"status": "failed", "text": f"{type(error).__name__}: {(str(error) or '-').splitlines()[0]}"}
        bench.forget_trainer()
    return result | {"seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    run_main(main)
