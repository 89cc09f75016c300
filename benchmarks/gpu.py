"""Training and generation on a GPU at full size, with random weights: samples/s, MFU, memory, time by part.

    python -m benchmarks.gpu                                   7B with SAM ViT-H, bf16, LoRA r 8, checkpointing
    python -m benchmarks.gpu --layouts packed plain --attention sdpa flash_attention_2
    python -m benchmarks.gpu --size tiny --device cpu          that it runs, without a GPU

MFU is FLOPs over seconds over the peak of the GPU (--tflops; 989 is an H100, 312 an A100, both bf16). Recomputed
activations count as work here, since they are counted in the FLOPs; the LLM's forward MFU has none. flash-attn takes
plain rows only; combinations that cannot run are named and left out. `--compile` compiles the encoders.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from utils.errors import UserError, run_main

LAYOUTS = ("packed", "plain")
PROMPT_TOKENS = 60


@dataclass
class Speed:
    """Of training steps: seconds of one, images a second, peak memory in GiB (0 on a CPU), the whole step's MFU, that
    of the LLM's forward pass, and the seconds of one step by part."""

    seconds: float
    samples_per_second: float
    peak_gib: float
    mfu: float
    llm_mfu: float
    parts: dict[str, float]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("tiny", "bench", "7b", "13b"), default="7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="images per batch")
    parser.add_argument("--conversations", type=int, default=3, metavar="N", help="conversations about each image")
    parser.add_argument("--lora_r", type=int, default=8, metavar="N", help="0 trains the whole LLM")
    parser.add_argument("--no_gradient_checkpointing", dest="checkpointing", action="store_false")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--attention", nargs="+", choices=("sdpa", "flash_attention_2"), default=["sdpa"])
    parser.add_argument("--compile", action="store_true", help="torch.compile the encoders")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="timed steps, after two that warm up")
    parser.add_argument("--new_tokens", type=int, default=64, metavar="N", help="tokens to generate; 0 leaves it out")
    parser.add_argument("--answers", type=int, default=8, metavar="N", help="answers generated at a time")
    parser.add_argument("--tflops", type=float, default=989.0, help="the GPU's bf16 peak")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args(argv)
    _report(flags)


def _report(flags: argparse.Namespace) -> None:
    import torch

    from benchmarks.bench_model import SIZES

    if flags.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no GPU is visible; --size tiny --device cpu shows that the benchmark runs")
    dtype = torch.bfloat16 if flags.device.startswith("cuda") else torch.float32
    shape = replace(SIZES[flags.size], images=flags.images, conversations=flags.conversations)
    print("|layout|attention|s a step|samples/s|peak GiB|MFU|LLM forward MFU|parts, ms|")
    print("|---" * 8 + "|")
    for layout in flags.layouts:
        for attention in flags.attention:
            if attention == "flash_attention_2" and layout == "packed":
                print(f"|{layout}|{attention}|cannot express packed rows|", flush=True)
                continue
            try:
                one = train_speed(
                    replace(shape, packed=layout == "packed"),
                    attention=attention,
                    dtype=dtype,
                    device=flags.device,
                    lora_r=flags.lora_r,
                    checkpointing=flags.checkpointing,
                    compiled=flags.compile,
                    steps=flags.steps,
                    peak_tflops=flags.tflops,
                )
            except (ImportError, ValueError, torch.OutOfMemoryError) as error:
                print(f"|{layout}|{attention}|{str(error).splitlines()[0]}|", flush=True)
                continue
            parts = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in one.parts.items())
            print(
                f"|{layout}|{attention}|{one.seconds:.3f}|{one.samples_per_second:.2f}|{one.peak_gib:.1f}"
                f"|{one.mfu:.3f}|{one.llm_mfu:.3f}|{parts}|",
                flush=True,
            )
    if flags.new_tokens:
        rate = generation_speed(shape, dtype=dtype, device=flags.device, tokens=flags.new_tokens, answers=flags.answers)
        print(f"\ngeneration, {flags.answers} answers at a time: {rate:.1f} tokens/s")


def train_speed(
    shape,
    *,
    attention: str,
    dtype,
    device: str,
    lora_r: int,
    checkpointing: bool,
    compiled: bool,
    steps: int,
    peak_tflops: float,
) -> Speed:
    """Time training steps, optimizer included; then one more, part by part."""
    import torch

    from benchmarks.bench_model import adapt, bench_batch, bench_model
    from benchmarks.counting import count_step
    from model.compiling import compile_encoders
    from utils.training.engine import build_optimizer

    model = bench_model(shape, dtype=dtype, device=device)
    model.language_model.set_attn_implementation(attention)
    adapt(model, lora_r=lora_r, checkpointing=checkpointing).to(device)
    if compiled:
        compile_encoders(model)
    on_gpu = device.startswith("cuda")
    optimizer = build_optimizer(model, lr=1e-5, betas=(0.9, 0.95), fused=on_gpu)
    batch = bench_batch(shape).to(device)

    def step() -> None:
        model(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(lambda: [step() for _ in range(steps)], on_gpu) / steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    parts = _seconds_by_part(model, batch, optimizer, on_gpu)
    count = count_step(shape, dtype=dtype, lora_r=lora_r, checkpointing=checkpointing)
    peak_flops = peak_tflops * 1e12
    return Speed(
        seconds=seconds,
        samples_per_second=shape.images / seconds,
        peak_gib=peak,
        mfu=count.flops / seconds / peak_flops,
        llm_mfu=count.forward["LLM"] / parts["LLM"] / peak_flops,
        parts=parts,
    )


def generation_speed(shape, *, dtype, device: str, tokens: int, answers: int) -> float:
    """Tokens a second, `answers` answers at a time to one question each, of which all have `tokens` tokens."""
    from benchmarks.bench_model import bench_model, bench_prompt

    model = bench_model(shape, dtype=dtype, device=device).eval()
    model.config.text_config.eos_token_id = -1  # never written
    prompt = bench_prompt(shape, PROMPT_TOKENS, rows=answers).to(device)
    on_gpu = device.startswith("cuda")
    model.generate(prompt, max_new_tokens=2)
    return answers * tokens / _seconds(lambda: model.generate(prompt, max_new_tokens=tokens), on_gpu)


def _seconds(work: Callable[[], object], on_gpu: bool) -> float:
    import torch

    if on_gpu:
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _seconds_by_part(model, batch, optimizer, on_gpu: bool) -> dict[str, float]:
    """One step, waiting for the device at the ends of the parts: forward by part, backward, optimizer."""
    with _timed_modules(model, on_gpu) as parts:
        output = None

        def forward():
            nonlocal output
            output = model(batch)

        whole = _seconds(forward, on_gpu)
    parts["rest of forward"] = whole - sum(parts.values())
    parts["backward"] = _seconds(output.loss.backward, on_gpu)
    parts["optimizer"] = _seconds(optimizer.step, on_gpu)
    optimizer.zero_grad()
    return dict(parts)


@contextmanager
def _timed_modules(model, on_gpu: bool) -> Iterator[dict[str, float]]:
    import torch

    modules = {
        "CLIP": list(model.vision_tower.encoder.layers),
        "LLM": list(model.language_model.layers),
        "SAM encoder": [model.sam.vision_encoder],
        "mask decoder": [model.sam.mask_decoder],
    }
    spent: dict[str, float] = defaultdict(float)
    handles = []

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    for name, members in modules.items():
        for module in members:

            def enter(*_, name=name):
                spent[name] -= now()

            def leave(*_, name=name):
                spent[name] += now()

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    run_main(main)
