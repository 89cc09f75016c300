"""How much memory training needs: an estimate from numbers alone, and what this process uses.

The estimate counts what does not depend on the batch, as DeepSpeed keeps it (ZeRO, Rajbhandari et al. 2020, section
3): the weights, the gradients, the float32 copy that the optimizer works on, Adam's two moments, and buffers. Tests
compare it with what DeepSpeed allocates on a CPU. Activations depend on the batch: `preflight.py` measures them,
`benchmarks.scale` counts them.
"""

import gc
import os
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._subclasses import FakeTensor

from dataloaders.batching.batch import Batch

MIB, GIB = 2**20, 2**30
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
FLOAT32 = 4
MOMENTS = 2  # of Adam
SUB_GROUP = 10**9  # elements that ZeRO 3 updates at a time (DeepSpeed's default)
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device, by what they are for.

    gradients: summed up over the micro-batches of a step. new_gradients: those of one micro-batch until they are added
    to them. buckets: what gradients are reduced through, during the backward pass. float32_gradients: their copy in the
    optimizer's precision, during its step. gradients_stay: ZeRO 3 keeps gradients and bucket between steps.
    """

    weights: int
    float32_copy: int
    adam_moments: int
    gradients: int
    new_gradients: int
    buckets: int
    float32_gradients: int
    gradients_stay: bool

    @property
    def between_steps(self) -> int:
        """What stays when a step is done."""
        stays = self.gradients + self.buckets if self.gradients_stay else 0
        return self.weights + self.float32_copy + self.adam_moments + stays

    @property
    def backward(self) -> int:
        """At the end of a backward pass, activations apart."""
        states = self.weights + self.float32_copy + self.adam_moments
        return states + self.gradients + self.new_gradients + self.buckets

    @property
    def step(self) -> int:
        """While the optimizer works, when activations are gone."""
        buckets = self.buckets if self.gradients_stay else 0
        return self.backward - self.new_gradients - self.buckets + buckets + self.float32_gradients

    def peak(self, activations: int = 0) -> int:
        """The most bytes at any time. activations: bytes at the end of the forward pass."""
        return max(self.backward + activations, self.step)


def estimate_memory(
    *,
    total: int,
    trainable: int,
    precision: str,
    zero_stage: int,
    world_size: int,
    accumulation: int = 1,
    bucket: int = 0,
    overlap: bool = False,
) -> MemoryEstimate:
    """What one of `world_size` devices holds during training.

    total, trainable: numbers of parameters. precision: fp32, bf16 or fp16, of weights and gradients.
    zero_stage: 0 nothing is shared, 1 optimizer, 2 gradients too, 3 weights too.
    accumulation: micro-batches of a step.
    bucket: elements of the buffer through which ZeRO reduces gradients; stages 1 and 2 have two where `overlap` hides
    communication behind the backward pass. Weights that come back after a step are gathered in place.
    """
    size = BYTES[precision]

    def share(count: int, from_stage: int) -> int:
        return -(-count // world_size) if zero_stage >= from_stage else count

    # ZeRO's optimizer has a float32 copy whatever the precision, and without ZeRO half precision has one.
    has_copy = zero_stage >= 1 or precision != "fp32"
    # fp32 gradients need no copy at the step, but ZeRO 3 makes one.
    copied = share(trainable, 1) if precision != "fp32" or zero_stage == 3 else 0
    if zero_stage == 3:
        copied = min(copied, SUB_GROUP)
    return MemoryEstimate(
        weights=share(total, 3) * size,
        float32_copy=share(trainable, 1) * FLOAT32 if has_copy else 0,
        adam_moments=share(trainable, 1) * FLOAT32 * MOMENTS,
        gradients=share(trainable, 2) * size,
        new_gradients=share(trainable, 2) * size if zero_stage == 2 and accumulation > 1 else 0,
        buckets=bucket * size * (2 if overlap and zero_stage < 3 else 1) if zero_stage else 0,
        float32_gradients=copied * FLOAT32,
        gradients_stay=zero_stage == 3,
    )


def shared_memory_warning(read_ahead: int, *, processes: int) -> list[str]:
    """A line where the bytes that the workers of each of `processes` read ahead do not fit into shared memory."""
    needed = processes * read_ahead
    if not SHARED_MEMORY.is_dir() or needed <= (free := shutil.disk_usage(SHARED_MEMORY).free):
        return []
    return [
        f"{SHARED_MEMORY} has {free / MIB:,.0f} MiB free, but what workers read ahead takes some "
        f"{needed / MIB:,.0f} MiB, and they die where it is full: enlarge it (docker run --shm-size=16g), or lower "
        "--workers or --batch_size"
    ]


def batch_bytes(batch: Batch) -> int:
    """Of all tensors of a batch, as a worker hands them over."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    batch.changed(count)
    return total


def tensor_memory(device: torch.device) -> int:
    """Bytes of the tensors of this process on `device`; fake tensors, which have none, are left out."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, torch.Tensor) and not issubclass(kind, FakeTensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and tensor.device == device and tensor.layout == torch.strided:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: of tensors on a GPU, of everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def device_memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
