"""How much memory a device has left, and whether an error means that it had too little."""

import gc
from pathlib import Path

import torch

# How PyTorch and CUDA's libraries say it where the error has no type of its own.
_MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still get on `device`; None where that is unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * kilobytes[0] if kilobytes else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device, or this process, could get no more memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def release_memory(device: torch.device) -> None:
    """Give back what is not used any more, after an attempt that took too much."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
