"""What work costs: FLOPs, seconds of wall clock and of CPU, peak memory; each measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from groundscore.errors import UserError

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

MEGABYTE = 2**20
Result = TypeVar("Result")


@dataclass
class Cost:
    """One piece of work: FLOPs; the least seconds of several runs, by the wall clock and of all CPU cores together;
    peak_gb, the most memory that the process had at any time, in 10⁹ bytes (resident, the libraries included).
    """

    flops: float
    seconds: float
    cpu_seconds: float
    peak_gb: float


def in_a_new_process(call: Callable[..., Result], *arguments) -> Result:
    """`call(*arguments)` in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def measure(work: Callable[[], object], repeats: int) -> Cost:
    """Run `work` `repeats` times (after one run that warms up) and once more to count its FLOPs."""
    seconds, cpu_seconds = [], []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    peak = peak_memory_mb() * MEGABYTE / 1e9
    counted = seconds[1:] or seconds, cpu_seconds[1:] or cpu_seconds
    return Cost(count_flops(work), min(counted[0]), min(counted[1]), peak)


def count_flops(work: Callable[[], object]) -> float:
    """FLOPs of matrix products, convolutions and attention in `work`, forward and backward."""
    with flop_counter() as counter:
        work()
    return float(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, which leaves out the attention kernel of the CPU, with that kernel counted in.

    As for the kernels that PyTorch counts, the whole square counts, masked or not.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    aten = torch.ops.aten

    def forward(query, key, value, *_, **__) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad, query, key, value, *_, **__) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    kernels = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=kernels)


def peak_memory_mb() -> float:
    """The most that this process has had in memory, in MB; mapped files count as far as they were read."""
    return _read_memory_mb("/proc/self/status", "VmHWM")


def reset_peak_memory() -> float:
    """Forget the peak until now; the memory that there is, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory_mb()


def anonymous_memory_mb() -> float:
    """What this process holds that is no file's content, in MB: objects and buffers, its own or inherited."""
    return _read_memory_mb("/proc/self/smaps_rollup", "Anonymous")


def _read_memory_mb(path: str, key: str) -> float:
    """A line "key: … kB" of a file below /proc, in MB."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / MEGABYTE
    raise UserError(f"{path} has no line {key!r}; memory is measured on Linux")
