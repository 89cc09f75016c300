"""Predicted memory and time of LoRA training, for 7B and 13B on 1, 8 and 64 GPUs. A prediction, not a measurement.

    python -m benchmarks.scale
    python -m benchmarks.scale --sizes 7b --images 4 --conversations 6 --tflops 312 --gpu_gb 40     A100

Weights, gradients and optimizer states follow ZeRO's arithmetic (`utils/training/memory.py`, as in the preflight);
FLOPs and what the backward pass needs are counted on the model's shapes. Time is FLOPs over what a GPU reaches, plus
what is sent between GPUs and not hidden. ZeRO 3 is predicted for comparison; training offers stages 0 to 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from utils.errors import run_main
from utils.training.memory import GIB, estimate_memory

GPUS_PER_NODE = 8
BF16_BYTES = 2
RUNTIME_BYTES = 2 * GIB  # CUDA context, libraries, fragmentation


@dataclass(frozen=True)
class Machine:
    """tflops: bf16 peak of a GPU; utilisation: share of it that is reached; node_gbs, network_gbs: GB/s of one GPU to
    the others of its node and to other nodes; hidden: share of the traffic that overlaps with computing.
    """

    tflops: float = 989.0
    utilisation: float = 0.40
    node_gbs: float = 300.0
    network_gbs: float = 40.0
    hidden: float = 0.5


@dataclass(frozen=True)
class Prediction:
    """Per GPU: memory in GiB, its activations, and seconds of a micro-batch; samples_per_second of all GPUs."""

    memory: float
    activations: float
    seconds: float
    samples_per_second: float


def predict(count, machine: Machine, *, gpus: int, zero_stage: int, images: int, layers: int) -> Prediction:
    """From a `StepCount` to memory and time.

    The largest layer's activations are alive at once where it is recomputed: what is kept over the number of layers,
    times the tensors of a layer that its own backward pass needs (some 16 of the width of the hidden states).
    """
    estimate = estimate_memory(
        total=count.total, trainable=count.trainable, precision="bf16", zero_stage=zero_stage, world_size=gpus
    )
    activations = count.kept_bytes * (1 + 16 / layers)
    gathered = 2 * count.total * BF16_BYTES / layers if zero_stage == 3 and gpus > 1 else 0  # this layer and the next
    memory = estimate.total + activations + gathered + RUNTIME_BYTES
    computing = count.flops / (machine.tflops * 1e12 * machine.utilisation)
    share = (gpus - 1) / gpus
    sent = 2 * share * count.trainable * BF16_BYTES  # gradients are reduced, weights come back
    if zero_stage == 3:
        sent += 2 * share * count.total * BF16_BYTES  # all weights, forward and backward
    speed = machine.node_gbs if gpus <= GPUS_PER_NODE else machine.network_gbs
    seconds = computing + (1 - machine.hidden) * sent / (speed * 1e9)
    return Prediction(memory / GIB, activations / GIB, seconds, gpus * images / seconds)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=("7b", "13b"), default=["7b", "13b"])
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 8, 64], metavar="N")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="images per GPU and micro-batch")
    parser.add_argument("--conversations", type=int, default=3, metavar="N", help="conversations about each image")
    parser.add_argument("--lora_r", type=int, default=8, metavar="N", help="0 trains the whole LLM")
    parser.add_argument("--tflops", type=float, default=Machine.tflops, help="bf16 peak of a GPU (default: H100)")
    parser.add_argument("--utilisation", type=float, default=Machine.utilisation, help="share of it that is reached")
    parser.add_argument("--gpu_gb", type=float, default=80.0, help="memory of a GPU, GiB")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args(argv)

    import torch

    from benchmarks.bench_model import SIZES
    from benchmarks.counting import count_step

    machine = Machine(tflops=flags.tflops, utilisation=flags.utilisation)
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
