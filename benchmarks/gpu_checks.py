"""The checks of `benchmarks.gpu`: each takes a `Bench` and returns a `Finding`, and needs nothing of the others."""

from __future__ import annotations

import math
import statistics
import tempfile
import warnings
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.bench_model import BenchShape, bench_batch, bench_prompt
from benchmarks.counting import count_step
from benchmarks.gpu_training import ACCUMULATION, LORA_R, Bench, Trainer, free_memory, timed_modules
from benchmarks.loader import loader_rate
from benchmarks.measuring import in_a_new_process
from benchmarks.synthetic import write_synthetic
from checkpoints.runs import Position, resume, save_checkpoint
from dataloaders.batching.batch import Batch, PreparedImages
from model.backbones.base import row_attention
from model.images import fitted_size

PROMPT_TOKENS = 60
LIMITS_GIB = (24, 40, 80)
WORKERS = 4
NINE_MASKS = {"conversations": 3, "segs": 3}
TWELVE_MEGAPIXELS = {"height": 3000, "width_pixels": 4000}


class NeedsCuda(Exception):
    """The check, or the part of it that matters, cannot be done on a CPU."""


@dataclass
class Finding:
    """text: one line; numbers: for the JSON file; ok: whether it is as it must be."""

    text: str
    numbers: dict[str, Any] = field(default_factory=dict)
    ok: bool = True


def padded_batch(shape: BenchShape, device: torch.device, seed: int = 0) -> Batch:
    """A batch whose CLIP images hold the whole image and padding."""
    batch = bench_batch(shape, seed)
    return padded_images(batch, shape).to(device)


def padded_images(batch: Batch, shape: BenchShape) -> Batch:
    """The batch with its backbone's images taken for whole ones and padding."""
    size = (shape.height, shape.width_pixels)
    part, images = fitted_size(*size, shape.clip_image_size), batch.backbone_images
    geometries = [replace(geometry.as_padded(size), size=part) for geometry in images.geometries]
    groups = [replace(group, geometries=[geometries[i] for i in group.images]) for group in images.groups]
    return replace(batch, backbone_images=PreparedImages(groups, geometries))


def zero2_equals_plain(bench: Bench) -> Finding:
    """Some layers of the model in float32, so that rounding hides nothing: three steps each."""
    shape = replace(bench.shape, layers=min(bench.shape.layers, 2), sam_layers=1, sam_global=(0,))
    batch, runs = padded_batch(shape, bench.world.device), []
    for options in ({"zero_stage": 0, "overlap": False, "fused": False}, {"zero_stage": 2}):
        trainer = bench.new_trainer(shape=shape, precision="fp32", **options)
        torch.manual_seed(1)
        losses = [trainer.step(batch).loss.item() for _ in range(3)]
        runs.append((losses, trainer.trained()))
        del trainer
        free_memory()
    (plain, weights), (zero2, shared) = runs
    loss = max(abs(a - b) / abs(a) for a, b in zip(plain, zero2, strict=True))
    weight = max(float((weights[name] - shared[name]).abs().max()) for name in weights)
    numbers = {"largest_relative_loss_difference": loss, "largest_weight_difference": weight}
    return Finding(f"losses differ by {loss:.1e} of them, weights by {weight:.1e} at most", numbers, loss < 1e-3)


def attention_kernel(bench: Bench) -> Finding:
    """Which kernel scaled_dot_product_attention takes for our mask, and which would take it."""
    shape = bench.shape
    batch = bench_batch(shape).to(bench.world.device)
    mask = row_attention(batch.branches, batch.image_positions, None)
    size = (len(batch.input_ids), shape.heads, batch.input_ids.shape[1], shape.width // shape.heads)
    dtype = torch.bfloat16 if bench.on_gpu else torch.float32
    states = [torch.randn(size, dtype=dtype, device=bench.world.device, requires_grad=True) for _ in range(3)]

    def attend() -> None:
        F.scaled_dot_product_attention(*states, attn_mask=mask).sum().backward()

    takes = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                attend()
            takes[backend.name] = True
        except RuntimeError:
            takes[backend.name] = False
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        attend()
    used = sorted({event.key for event in profile.key_averages() if "scaled_dot_product" in event.key})
    milliseconds = 1000 * bench.seconds(attend)
    kernels = [name.removeprefix("aten::") for name in used if name != "aten::scaled_dot_product_attention"]
    able = [name for name, works in takes.items() if works]
    text = f"{', '.join(kernels)}; {milliseconds:.2f} ms a layer; able: {', '.join(able) or 'none'}"
    fast = not any(name.endswith("attention_math") for name in kernels)
    return Finding(text, {"used": kernels, "takes": takes, "ms": milliseconds}, fast)


def lengths(bench: Bench) -> Finding:
    """Steps of different row lengths: nothing is compiled or set up again for each."""
    trainer = bench.trainer()
    base = bench.shape.text_tokens
    batches = [
        padded_batch(replace(bench.shape, text_tokens=base + 7 * each), trainer.device) for each in range(bench.lengths)
    ]
    trainer.step(batches[0])
    seconds = [bench.seconds(lambda batch=batch: trainer.step(batch)) for batch in batches]
    middle = statistics.median(seconds)
    text = f"a step takes {middle:.3f} s (median of {bench.lengths} lengths), {max(seconds):.3f} s at most"
    return Finding(text, {"seconds": seconds}, max(seconds) < 2 * middle or not bench.on_gpu)


def memory(bench: Bench) -> Finding:
    """Peak memory of the published recipe with large images and nine masks, on cards of several sizes."""
    trainer = bench.trainer()
    shape = replace(bench.shape, **NINE_MASKS)
    if not bench.on_gpu:
        trainer.step(padded_batch(shape, trainer.device))
        raise NeedsCuda("a step with 9 masks ran")
    batch = padded_batch(replace(shape, **TWELVE_MEGAPIXELS), trainer.device)
    whole, found = torch.cuda.get_device_properties(trainer.device).total_memory / 2**30, {}
    for limit in sorted(LIMITS_GIB, reverse=True):
        free_memory()
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), trainer.device)
        bench.reset_peak()
        try:
            trainer.step(batch)
            found[limit] = f"{bench.peak_gib():.1f} GiB"
        except torch.OutOfMemoryError:
            found[limit] = "out of memory"
            break  # less is not enough either, and the engine stands in the middle of a step
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, trainer.device)
    if "out of memory" in found.values():
        bench.forget_trainer()
    text = "; ".join(f"{limit} GiB card: {peak}" for limit, peak in found.items())
    return Finding(text, {str(limit): peak for limit, peak in found.items()}, found.get(40) != "out of memory")


def generation(bench: Bench) -> Finding:
    """Answers to many prompts about one image at a time."""
    model = bench.trainer().model
    prompt = bench_prompt(bench.shape, PROMPT_TOKENS, rows=bench.prompts)
    prompt = padded_images(prompt, bench.shape).to(bench.world.device)
    end, model.config.text_config.eos_token_id = model.config.text_config.eos_token_id, -1  # never written
    model.eval()
    try:
        model.generate(prompt, max_new_tokens=2)
        bench.reset_peak()
        seconds = bench.seconds(lambda: model.generate(prompt, max_new_tokens=bench.new_tokens))
    finally:
        model.config.text_config.eos_token_id = end
        model.train()
    rate, peak = bench.prompts * bench.new_tokens / seconds, bench.peak_gib()
    text = f"{bench.prompts} prompts: {rate:.1f} tokens/s, peak {peak:.1f} GiB"
    return Finding(text, {"tokens_per_second": rate, "peak_gib": peak})


def packed_equals_plain(bench: Bench) -> Finding:
    """Losses of the same conversations in one row for each image and in one row for each conversation."""
    trainer, losses = bench.trainer(), []
    with torch.no_grad():
        for packed in (True, False):
            batch = padded_batch(replace(bench.shape, packed=packed), trainer.device)
            layers = torch.full((len(batch.seg_positions),), bench.shape.layers, device=trainer.device)
            losses.append(trainer.model(batch, layer_choice=layers).losses)
    names = ("ce_loss", "mask_bce_loss", "mask_dice_loss")
    differences = {name: abs(1 - float(losses[1][name]) / float(losses[0][name])) for name in names}
    text = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return Finding(f"relative differences: {text}", differences, max(differences.values()) < 0.02)


def host_waits(bench: Bench) -> Finding:
    """Operations of a micro-batch, forward and backward, in which the host waits for the device."""
    trainer = bench.trainer()
    batch = padded_batch(bench.shape, trainer.device)
    trainer.step(batch)
    if not bench.on_gpu:
        raise NeedsCuda("tests/model/test_host_waits.py counts on a CPU")
    bench.wait()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.micro_batch(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    trainer.engine.step()
    trainer.micro_batch(batch)  # the rest of the step that this began
    trainer.engine.step()
    lines = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in seen if "synchroniz" in str(each.message))
    where = ", ".join(f"{line} ({number})" for line, number in lines.most_common(5))
    return Finding(f"{sum(lines.values())} in a micro-batch{': ' * bool(where)}{where}", dict(lines), not lines)


def gate(bench: Bench) -> Finding:
    """The policy's entropy over many steps of training, as a share of the uniform one."""
    trainer, uniform = bench.trainer(), math.log(bench.shape.layers + 1)
    before = trainer.trained()["policy.gate"]
    entropies = []
    for number in range(bench.gate_steps):
        batch = padded_batch(bench.shape, trainer.device, seed=number)
        entropies.append(trainer.step(batch).statistics["policy/entropy"])
    first, last = (float(entropies[index]) / uniform for index in (0, -1))
    moved = float((trainer.trained()["policy.gate"] - before).abs().max())
    ok = math.isfinite(last) and moved > 0
    text = (
        f"entropy {first:.3f} → {last:.3f} of the uniform one in {bench.gate_steps} steps of random images and weights"
    )
    return Finding(text, {"first": first, "last": last, "gate_moved": moved}, ok)


def save_and_resume(bench: Bench) -> Finding:
    """A checkpoint is written and read back; the step after it is the same after going on from it."""
    trainer, world = bench.trainer(), bench.world
    batch = padded_batch(bench.shape, trainer.device)
    trainer.step(batch)
    position = Position(step=1, samples=bench.shape.images * ACCUMULATION, world_size=world.size)
    with tempfile.TemporaryDirectory(prefix="uground_gpu_") as folder:
        settings = {
            "flags": {},
            "model": {"system": trainer.model.config.system},
            "base": {},
            "trained": list(trainer.trained()),
            "precision": bench.precision,
        }
        seconds = bench.seconds(
            lambda: save_checkpoint(
                trainer.engine, Path(folder), position=position, settings=settings, keep=1, world=world
            )
        )
        (checkpoint,) = Path(folder).glob("global_step*")
        size = sum(file.stat().st_size for file in checkpoint.iterdir()) / 2**30
        losses = [trainer.step(batch).loss.item() for _ in range(2)]
        resume(trainer.engine, checkpoint, world)
        again = [trainer.step(batch).loss.item() for _ in range(2)]
    difference = max(abs(a - b) / abs(a) for a, b in zip(losses, again, strict=True))
    text = f"{size:.2f} GiB written and read back in {seconds:.1f} s; losses after resuming differ by {difference:.1e}"
    return Finding(text, {"gib": size, "seconds": seconds, "difference": difference}, difference < 1e-2)


def sam_precision(bench: Bench) -> Finding:
    """The mask decoder's image embeddings in bf16 against those in float32, from the same weights."""
    model = bench.trainer().model
    batch = padded_batch(replace(bench.shape, images=1), bench.world.device)
    with torch.no_grad():
        (images,) = batch.decoder_images.groups
        half, full = (
            deepcopy(model.decoder).to(dtype).encode(images)[0].float() for dtype in (torch.bfloat16, torch.float32)
        )
    error = float((half - full).norm() / full.norm())
    return Finding(f"bf16 differs from float32 by {error:.1%} of the embeddings' norm", {"error": error}, error < 0.05)


def workers(bench: Bench) -> Finding:
    """Samples a second of 4 workers on images of 640 × 480, against those of training."""
    count = WORKERS if bench.on_gpu else 1
    batch = padded_batch(bench.shape, bench.world.device)
    needed = bench.shape.images * ACCUMULATION / bench.seconds(lambda: bench.trainer().step(batch))
    with tempfile.TemporaryDirectory(prefix="uground_gpu_") as folder:
        write_synthetic(Path(folder), 200)
        families = "sem_seg||refer_seg"
        arguments = (Path(folder), families, count, bench.shape.images, bench.samples, bench.tokenizer)
        rate = in_a_new_process(loader_rate, *arguments).samples_per_second
    text = f"{count} workers give {rate:.1f} samples/s, training takes {needed:.1f}"
    return Finding(text, {"loader": rate, "training": needed}, rate > needed)


def throughput(bench: Bench) -> Finding:
    """Samples a second and MFU, packed and plain, eager and compiled."""
    trainer, numbers, parts = bench.trainer(), {}, []
    for compiled in (False, True) if bench.on_gpu else (False,):
        if compiled:
            bench.compile(trainer)
        for packed in (True, False):
            shape = replace(bench.shape, packed=packed)
            name = f"{'packed' if packed else 'plain'}, {'compiled' if compiled else 'eager'}"
            numbers[name] = _speed(bench, trainer, shape)
            parts.append(f"{name} {numbers[name]['samples_per_second']:.2f}/s, MFU {numbers[name]['mfu']:.2f}")
    text = "; ".join(parts) + f"; LLM forward MFU {numbers['packed, eager']['llm_mfu']:.2f}"
    return Finding(text if bench.on_gpu else f"{text}; --compile skipped: no CUDA", numbers)


def _speed(bench: Bench, trainer: Trainer, shape: BenchShape) -> dict[str, float]:
    batch = padded_batch(shape, trainer.device)
    for _ in range(2):
        trainer.step(batch)
    bench.reset_peak()
    seconds = bench.seconds(lambda: [trainer.step(batch) for _ in range(bench.steps)]) / bench.steps / ACCUMULATION
    peak = bench.peak_gib()
    with torch.no_grad(), timed_modules(bench, {"LLM": trainer.model.backbone.layers}) as spent:
        trainer.model(batch)
    count = count_step(shape, dtype=torch.bfloat16, lora_r=LORA_R, checkpointing=True)
    peak_flops = bench.tflops * 1e12
    return {
        "samples_per_second": shape.images / seconds,
        "seconds_per_micro_batch": seconds,
        "peak_gib": peak,
        "mfu": count.flops / seconds / peak_flops,
        "llm_mfu": count.forward["LLM"] / spent["LLM"] / peak_flops,
    }


CHECKS = {
    "zero2": zero2_equals_plain,
    "attention": attention_kernel,
    "lengths": lengths,
    "packed": packed_equals_plain,
    "waits": host_waits,
    "resume": save_and_resume,
    "generation": generation,
    "sam": sam_precision,
    "workers": workers,
    "gate": gate,
    "memory": memory,
    "throughput": throughput,
}
