"""How much memory training needs: an estimate from numbers alone, and what this process uses.

The estimate counts what does not depend on the batch, as DeepSpeed keeps it (ZeRO, Rajbhandari et al. 2020, section
3): the weights, the gradients, the float32 copy that the optimizer works on, and Adam's two moments. Activations depend
on the batch and are measured instead (`preflight.py`).
"""

import gc
import os
import resource
import sys
from dataclasses import dataclass, fields

import torch
from torch._subclasses import FakeTensor

MIB, GIB = 2**20, 2**30
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
FLOAT32 = 4
MOMENTS = 2  # of Adam


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device, by what they are for."""

    weights: int
    gradients: int
    float32_copy: int
    adam_moments: int
    buckets: int
    kept_bucket: int

    @property
    def between_steps(self) -> int:
        """What stays when gradients are gone."""
        return self.weights + self.float32_copy + self.adam_moments + self.kept_bucket

    @property
    def total(self) -> int:
        return sum(getattr(self, item.name) for item in fields(self))


def estimate_memory(
    *,
    total: int,
    trainable: int,
    precision: str,
    zero_stage: int,
    world_size: int,
    bucket: int = 0,
    overlap: bool = False,
) -> MemoryEstimate:
    """What one of `world_size` devices holds during training.

    total, trainable: numbers of parameters. precision: fp32, bf16 or fp16, of weights and gradients.
    zero_stage: 0 nothing is shared, 1 optimizer, 2 gradients too, 3 weights too.
    bucket: elements of the buffer through which ZeRO reduces gradients; stages 1 and 2 have two where `overlap` hides
    communication behind the backward pass, stage 3 keeps its one between steps.
    """
    size = BYTES[precision]

    def share(count: int, from_stage: int) -> int:
        return -(-count // world_size) if zero_stage >= from_stage else count

    # ZeRO's optimizer has a float32 copy whatever the precision; without ZeRO only fp16 has one, and bf16 keeps its
    # moments in bf16.
    has_copy = zero_stage >= 1 or precision == "fp16"
    moment_size = FLOAT32 if has_copy else size
    return MemoryEstimate(
        weights=share(total, 3) * size,
        gradients=share(trainable, 2) * size,
        float32_copy=share(trainable, 1) * FLOAT32 if has_copy else 0,
        adam_moments=share(trainable, 1) * moment_size * MOMENTS,
        buckets=bucket * size * (2 if overlap else 1) if zero_stage in (1, 2) else 0,
        kept_bucket=bucket * size if zero_stage == 3 else 0,
    )


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
