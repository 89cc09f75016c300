"""Predicted memory and time of LoRA training, for 7B and 13B on 1, 8 and 64 GPUs. A prediction, not a measurement.

    python -m benchmarks.scale
    python -m benchmarks.scale --sizes 7b --images 4 --conversations 6 --tflops 312 --gpu_gb 40     A100

Counted: FLOPs and what the backward pass keeps, on the model's shapes (`benchmarks/counting.py`, which tests hold
against real steps); weights, gradients and optimizer states by ZeRO's arithmetic (`training/memory.py`, as in the
preflight). Assumed, and to be replaced by what your machine shows: --tflops, --utilisation (`benchmarks.gpu` prints it
as MFU), --node_gbs, --network_gbs, --hidden, --runtime_gb. Time is FLOPs over what a GPU reaches, plus what is sent
between GPUs and not hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from groundscore.errors import run_main

if TYPE_CHECKING:
    from benchmarks.counting import StepCount

LARGE = ("7b", "13b", "internvl3-8b", "qwen2.5-vl-7b", "qwen3-vl-8b")  # of `bench_model.SIZES`, which imports torch
GPUS_PER_NODE = 8
BF16_BYTES = 2
LAYER_TENSORS = 16  # of the hidden states' size that one layer's backward pass needs: attention 8, MLP 3 × 2.7


@dataclass(frozen=True)
class Machine:
    """What is assumed of the machine.

    tflops: bf16 peak of a GPU; utilisation: share of it that is reached; node_gbs, network_gbs: GB/s of one GPU to the
    others of its node and to other nodes; hidden: share of the traffic that overlaps with computing; runtime_gb: GiB of
    CUDA's context, libraries and fragmentation on every GPU.
    """

    tflops: float = 989.0
    utilisation: float = 0.40
    node_gbs: float = 300.0
    network_gbs: float = 40.0
    hidden: float = 0.5
    runtime_gb: float = 2.0


@dataclass(frozen=True)
class Assumption:
    """A number that a prediction rests on: a field of `Machine`, its meaning, whether it is "assumed", "counted" or
    "measured" by now, and the command that measures it."""

    name: str
    meaning: str
    state: str
    command: str


ASSUMPTIONS = (
    Assumption("tflops", "bf16 peak of a GPU, TFLOP/s; an H100's", "assumed", "the maker's data sheet"),
    Assumption("utilisation", "share of it that is reached", "assumed", "python -m benchmarks.gpu (MFU)"),
    Assumption("node_gbs", "GB/s of one GPU to the others of its node", "assumed", "NCCL's all_reduce_perf"),
    Assumption("network_gbs", "GB/s of one GPU to other nodes", "assumed", "NCCL's all_reduce_perf, two nodes"),
    Assumption("hidden", "share of the traffic that overlaps with computing", "assumed", "two nodes and a profiler"),
    Assumption("runtime_gb", "GiB of CUDA and its libraries on a GPU", "assumed", "python -m benchmarks.gpu (memory)"),
)
# What is no field of `Machine`: how the rest of a prediction is known.
FOUNDATIONS = (
    Assumption("FLOPs, activations", "from the model's shapes", "counted", "python -m benchmarks.counting"),
    Assumption("weights, optimizer", "by ZeRO's arithmetic", "counted", "python train_ds.py … --dry_run"),
    Assumption("data keeps up", "samples/s of a worker", "measured", "python -m benchmarks.loader"),
    Assumption("ranks start", "metadata operations; no network", "measured", "python -m benchmarks.ranks"),
)


@dataclass(frozen=True)
class Prediction:
    """Per GPU: memory in GiB, its activations, and seconds of a micro-batch; samples_per_second of all GPUs."""

    memory: float
    activations: float
    seconds: float
    samples_per_second: float


def predict(count: StepCount, machine: Machine, *, gpus: int, zero_stage: int, images: int, layers: int) -> Prediction:
    """From a `StepCount` to memory and time.

    The largest layer's activations are alive at once where it is recomputed: what is kept over the number of layers,
    times the tensors of a layer that its own backward pass needs.
    """
    from training.engine import BUCKET
    from training.memory import GIB, estimate_memory

    estimate = estimate_memory(
        total=count.total,
        trainable=count.trainable,
        precision="bf16",
        zero_stage=zero_stage,
        world_size=gpus,
        accumulation=10,
        bucket=min(BUCKET, count.trainable),
        overlap=True,
    )
    activations = count.kept_bytes * (1 + LAYER_TENSORS / layers)
    gathered = 2 * count.total * BF16_BYTES / layers if zero_stage == 3 and gpus > 1 else 0  # this layer and the next
    memory = estimate.peak(activations + gathered) + machine.runtime_gb * GIB
    computing = count.flops / (machine.tflops * 1e12 * machine.utilisation)
    share = (gpus - 1) / gpus
    sent = 2 * share * count.trainable * BF16_BYTES  # gradients are reduced, weights come back
    if zero_stage == 3:
        sent += 2 * share * count.total * BF16_BYTES  # all weights, forward and backward
    speed = machine.node_gbs if gpus <= GPUS_PER_NODE else machine.network_gbs
    seconds = computing + (1 - machine.hidden) * sent / (speed * 1e9)
    return Prediction(memory / GIB, activations / GIB, seconds, gpus * images / seconds)


def main(argv: Sequence[str]) -> None:
    """Prints a line per model, number of GPUs and ZeRO stage."""
    parser = benchmark_parser("scale", __doc__)
    parser.add_argument(
        "--sizes", nargs="+", choices=LARGE, default=["7b", "13b"], metavar="SIZE", help=f"of {', '.join(LARGE)}"
    )
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 8, 64], metavar="N")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="images per GPU and micro-batch")
    parser.add_argument("--conversations", type=int, default=3, metavar="N", help="conversations about each image")
    parser.add_argument("--lora_r", type=int, default=8, metavar="N", help="0 trains the whole LLM")
    for assumption in ASSUMPTIONS:
        standard = getattr(Machine, assumption.name)
        meaning = f"{assumption.state}: {assumption.meaning} ({standard:g})"
        parser.add_argument(f"--{assumption.name}", type=float, default=standard, help=meaning)
    parser.add_argument("--gpu_gb", type=float, default=80.0, help="memory of a GPU, GiB")
    flags = parser.parse_args(argv)

    import torch

    from benchmarks.bench_model import SIZES
    from benchmarks.counting import count_step

    print("|number|value|meaning|how it is known|by what|\n|---|---|---|---|---|")
    for one in (*ASSUMPTIONS, *FOUNDATIONS):
        value = f"{getattr(flags, one.name):g}" if one in ASSUMPTIONS else ""
        print(f"|{one.name}|{value}|{one.meaning}|{one.state}|{one.command}|")
    print()
    machine = Machine(**{field.name: getattr(flags, field.name) for field in fields(Machine)})
    print("|model|TFLOP a step|GPUs|ZeRO|GiB a GPU|of it activations|fits|s a micro-batch|samples/s|")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in flags.sizes:
        shape = replace(SIZES[size], images=flags.images, conversations=flags.conversations)
        count = count_step(shape, dtype=torch.bfloat16, lora_r=flags.lora_r, checkpointing=True)
        for gpus in flags.gpus:
            for stage in (2, 3):
                one = predict(count, machine, gpus=gpus, zero_stage=stage, images=flags.images, layers=shape.layers)
                fits = "yes" if one.memory <= flags.gpu_gb else "no"
                print(
                    f"|{size}|{count.flops / 1e12:.1f}|{gpus}|{stage}|{one.memory:.1f}|{one.activations:.1f}|{fits}"
                    f"|{one.seconds:.2f}|{one.samples_per_second:.1f}|",
                    flush=True,
                )


if __name__ == "__main__":
    run_main(main)
