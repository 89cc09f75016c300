"""What a training step costs, counted without computing it: shapes alone go through the model (PyTorch's fake tensors).

    python -m benchmarks.counting                                  the bench model, by part
    python -m benchmarks.counting --size 7b --lora_r 8 --checkpointing

The FLOPs are the same as those of a real step. The memory is what the step keeps for its backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import benchmark_parser
from benchmarks.bench_model import SIZES, BenchShape, adapt, bench_batch, bench_model
from benchmarks.measuring import flop_counter
from groundscore.errors import run_main


@dataclass(frozen=True)
class StepCount:
    """flops of a step; forward: those of its forward pass by part; kept_bytes: what the backward pass needs, without
    the parameters; total, trainable: numbers of parameters.
    """

    flops: float
    forward: dict[str, float]
    kept_bytes: int
    total: int
    trainable: int

    @property
    def backward(self) -> float:
        """FLOPs of the backward pass."""
        return self.flops - sum(self.forward.values())


def main(argv: Sequence[str]) -> None:
    """Prints what a step costs, its forward pass by part."""
    parser = benchmark_parser("counting", __doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="bench")
    parser.add_argument(
        "--lora_r", type=int, default=0, metavar="N", help="rank of LoRA; 0 trains the whole LLM (default)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    flags = parser.parse_args(argv)
    count = count_step(SIZES[flags.size], lora_r=flags.lora_r, checkpointing=flags.checkpointing)
    forward = sum(count.forward.values())
    print("|part|GFLOP|share of the forward pass|\n|---|---|---|")
    for part, flops in count.forward.items():
        print(f"|{part}|{flops / 1e9:.1f}|{flops / forward:.1%}|")
    print(f"|forward|{forward / 1e9:.1f}||\n|backward|{count.backward / 1e9:.1f}||")
    print(f"\nkept for the backward pass: {count.kept_bytes / 1e9:.2f} GB in float32; ", end="")
    print(f"{count.trainable / 1e6:.0f} of {count.total / 1e6:.0f} million parameters are trainable")


def count_step(
    shape: BenchShape,
    system: str = "UGround",
    *,
    dtype: torch.dtype = torch.float32,
    lora_r: int = 0,
    checkpointing: bool = False,
) -> StepCount:
    """Count a forward and backward pass of the bench model; lora_r, checkpointing: see `bench_model.adapt`."""
    batch = bench_batch(shape)
    model = bench_model(shape, system, dtype=dtype, device="meta")
    adapt(model, lora_r=lora_r, checkpointing=checkpointing)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        _to_fake_cpu(model)
        batch = _without_values(batch, fake)
        kept = _KeptBytes(model)
        with flop_counter() as counter:
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                loss = model(batch).loss
            whole = float(counter.get_total_flops())
            counts = counter.get_flop_counts()
            forward = {
                part: sum(_flops_below(f"GroundingModel.{name}", counts) for name in names)
                for part, names in _parts(model).items()
            }
            forward["rest"] = whole - sum(forward.values())
            loss.backward()
        parameters = list(model.parameters())
        return StepCount(
            flops=float(counter.get_total_flops()),
            forward=forward,
            kept_bytes=kept.total,
            total=sum(parameter.numel() for parameter in parameters),
            trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        )


def _parts(model: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """The names of the modules of each part of the table."""
    backbone, decoder = model.backbone, model.decoder
    parts = {
        backbone.encoder_name: backbone.parts["encoder"],
        "projector": backbone.parts["projector"],
        "LLM": backbone.parts["llm"],
        "LLM's head": backbone.parts["head"],
        f"{decoder.encoder_name} encoder": decoder.parts.get("encoder", ()),
        "mask prompt": decoder.parts.get("prompt", ()),
        "mask decoder": decoder.parts.get("decoder", ()),
    }
    return {part: names for part, names in parts.items() if names}


def _flops_below(name: str, counts: dict) -> float:
    """FLOPs of a module, or of those of its parts that were called where it was not called itself."""
    names = {key for key in counts if key == name or key.startswith(f"{name}.")}
    outermost = [key for key in names if not any(key.startswith(f"{other}.") for other in names)]
    return float(sum(sum(counts[key].values()) for key in outermost))


class _KeptBytes:
    """Adds up the memory of the tensors that a graph keeps, each once, parameters and buffers left out."""

    def __init__(self, model: torch.nn.Module):
        known = [*model.parameters(), *model.buffers()]
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive = []  # a storage that is freed may give its identity to the next
        self.total = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Counts a tensor that is saved for the backward pass, and returns it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(storage)
            self.total += storage.nbytes()
        return tensor


def _to_fake_cpu(model: torch.nn.Module) -> None:
    """Parameters and buffers without values, but with a device, which decides about kernels."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype)
                module._parameters[name] = torch.nn.Parameter(fake, requires_grad=value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)


def _without_values(batch, fake: FakeTensorMode):
    return batch.changed(fake.from_tensor)


if __name__ == "__main__":
    run_main(main)
