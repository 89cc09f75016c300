"""Where generation spends its time, and whether a GPU would wait for the host between the kernels of a token.

    python -m benchmarks.generation                                     the bench model on a CPU
    python -m benchmarks.generation --size 7b --device cuda --answers 8
    python -m benchmarks.generation --launches 7b 13b                   counted, not run: no GPU is needed

Seconds (of all cores, where a CPU computes): the image, the prompt with the first token, every further token.
`--launches` counts the kernels of one further token and compares the time to launch them, at an assumed --launch_us,
with the time to read the LLM's bf16 weights once, at an assumed --memory_gbs. Where launching takes longer a CUDA graph
would pay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from groundscore.errors import UserError, run_main

if TYPE_CHECKING:
    from benchmarks.bench_model import BenchShape
    from model.grounding import GroundingModel

PROMPT_TOKENS = 60
BF16_BYTES = 2


@dataclass(frozen=True)
class Seconds:
    """Least seconds of several runs: CLIP and projector; the prompt and the first token; each further token."""

    image: float
    prompt: float
    token: float


def main(argv: Sequence[str]) -> None:
    """Prints a line per number of answers, or with --launches per model."""
    parser = benchmark_parser("generation", __doc__)
    parser.add_argument("--size", choices=("tiny", "bench", "7b", "13b"), default="bench")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 8], metavar="N", help="answers at a time")
    parser.add_argument("--new_tokens", type=int, default=32, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed runs, the best counts (default: 3)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    parser.add_argument(
        "--launches", nargs="+", choices=("bench", "7b", "13b"), metavar="SIZE", help="count, do not run"
    )
    parser.add_argument("--launch_us", type=float, default=5.0, help="microseconds to launch a kernel (assumed: 5)")
    parser.add_argument("--memory_gbs", type=float, default=3350.0, help="GB/s of the GPU's memory (H100: 3350)")
    flags = parser.parse_args(argv)
    if flags.launches:
        _report_launches(flags)
        return

    import torch

    from benchmarks.bench_model import SIZES

    if flags.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no GPU is visible; --launches counts without one")
    torch.set_num_threads(flags.threads)
    print("|answers at a time|image, ms|prompt and first token, ms|each further token, ms|\n|---|---|---|---|")
    for answers in flags.answers:
        one = measure(SIZES[flags.size], answers, flags.new_tokens, device=flags.device, repeats=flags.repeats)
        print(f"|{answers}|{1000 * one.image:.0f}|{1000 * one.prompt:.0f}|{1000 * one.token:.1f}|", flush=True)


def measure(shape: BenchShape, answers: int, tokens: int, *, device: str, repeats: int) -> Seconds:
    """Time of `tokens` tokens for `answers` answers to one question each, all about one image."""
    import torch

    from benchmarks.bench_model import bench_prompt

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model = _writer(shape, dtype=dtype, device=device)
    prompt = bench_prompt(shape, PROMPT_TOKENS, rows=answers).to(device)

    on_gpu = device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time  # which suffers less from neighbours

    def least(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(repeats + 1):
            began = clock()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(clock() - began)
        return min(seconds[1:])

    with torch.no_grad():
        image = least(lambda: model.encode_images(prompt))
    first = least(lambda: model.generate(prompt, max_new_tokens=1))
    whole = least(lambda: model.generate(prompt, max_new_tokens=tokens))
    return Seconds(image, first - image, (whole - first) / (tokens - 1))


def _report_launches(flags: argparse.Namespace) -> None:
    from benchmarks.bench_model import SIZES

    print("|model|kernels a token|to launch, ms|weights, GB|to read, ms|\n|---|---|---|---|---|")
    for size in flags.launches:
        shape = SIZES[size]
        kernels, weights = kernels_of_a_token(shape.layers), llm_weights(shape) * BF16_BYTES
        launching, reading = kernels * flags.launch_us / 1e3, weights / flags.memory_gbs / 1e6
        print(f"|{size}|{kernels}|{launching:.1f}|{weights / 1e9:.1f}|{reading:.1f}|", flush=True)


def kernels_of_a_token(layers: int) -> int:
    """Operations that compute something, for one more token of a model with `layers` layers; views are not counted."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from benchmarks.bench_model import SIZES, bench_prompt

    class Counting(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, call, types, args=(), kwargs=None):
            self.count += not call.is_view
            return call(*args, **(kwargs or {}))

    shape = replace(SIZES["tiny"], layers=layers)
    model, prompt = _writer(shape), bench_prompt(shape, PROMPT_TOKENS)
    counts = []
    for tokens in (2, 3):
        with Counting() as counting:
            model.generate(prompt, max_new_tokens=tokens)
        counts.append(counting.count)
    return counts[1] - counts[0]


def llm_weights(shape: BenchShape) -> int:
    """Parameters that a token reads: of the LLM's layers and its head."""
    attention, mlp = 4 * shape.width**2, 3 * shape.width * shape.mlp
    return shape.layers * (attention + mlp) + shape.vocabulary * shape.width


def _writer(shape: BenchShape, **options) -> GroundingModel:
    """The bench model, which writes until it may write no more."""
    from benchmarks.bench_model import bench_model

    model = bench_model(shape, **options).eval()
    model.config.text_config.eos_token_id = -1  # never written
    return model


if __name__ == "__main__":
    run_main(main)
