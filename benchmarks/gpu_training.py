"""What the checks of `benchmarks.gpu` share: the bench model in the training engine of `train_ds.py`, and clocks."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_model import BenchShape, adapt, bench_model
from dataloaders.batching.batch import Batch
from model.grounding import GroundingModel
from model.outputs import GroundingOutput
from training.engine import BUCKET, build_optimizer, engine_config, gate_learning_rate, start_engine
from utils.distributed import World

ACCUMULATION = 2
LR, LORA_R = 3e-4, 8
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SETTINGS = {"estimator": "leave_one_out", "gate": "normalized", "pad_train_clip_images": True}  # those of the recipe


@dataclass
class Trainer:
    """A model in its engine."""

    engine: object
    model: GroundingModel
    device: torch.device

    def micro_batch(self, batch: Batch) -> GroundingOutput:
        """Forward and backward."""
        output = self.engine(batch)
        self.engine.backward(output.loss)
        return output

    def step(self, batch: Batch) -> GroundingOutput:
        """A whole optimizer step of the same micro-batches; the output of the last."""
        for _ in range(ACCUMULATION):
            output = self.micro_batch(batch)
            self.engine.step()
        return output

    def trained(self) -> dict[str, Tensor]:
        """Returns float32 copies of the trainable parameters, by name."""
        named = self.model.named_parameters()
        return {name: value.detach().float().clone() for name, value in named if value.requires_grad}


@dataclass
class Bench:
    """What is measured and where; `trainer()` is built when first asked for, and shared by the checks."""

    shape: BenchShape
    world: World
    precision: str
    steps: int
    new_tokens: int
    prompts: int
    tflops: float
    tokenizer: Path
    samples: int
    lengths: int
    gate_steps: int
    _trainer: Trainer | None = field(default=None, repr=False)

    @property
    def on_gpu(self) -> bool:
        """Whether the checks run on CUDA."""
        return self.world.device.type == "cuda"

    def trainer(self) -> Trainer:
        """Returns the shared trainer."""
        if self._trainer is None:
            self._trainer = self.new_trainer()
        return self._trainer

    def forget_trainer(self) -> None:
        """Free the shared one, as after a check that failed."""
        self._trainer = None
        free_memory()

    def new_trainer(
        self,
        *,
        shape: BenchShape | None = None,
        precision: str | None = None,
        zero_stage: int = 2,
        overlap: bool = True,
        fused: bool = True,
        checkpointing: bool = True,
    ) -> Trainer:
        """An engine as `train_ds.py` builds it; overlap and fused have their effect on a GPU."""
        precision, device = precision or self.precision, str(self.world.device)
        model = bench_model(shape or self.shape, dtype=DTYPES[precision], device=device, **SETTINGS)
        adapt(model, lora_r=LORA_R, checkpointing=checkpointing).to(device=device, dtype=DTYPES[precision])
        rates = {"lr": LR, "policy_lr": gate_learning_rate(model, None)}
        optimizer = build_optimizer(model, **rates, betas=(0.9, 0.95), fused=fused and self.on_gpu)
        trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
        config = engine_config(
            batch_size=self.shape.images,
            accumulation=ACCUMULATION,
            world_size=self.world.size,
            precision=precision,
            zero_stage=zero_stage,
            warmup_min_lr=0.0,
            warmup_num_steps=100,
            total_steps=10_000,
            overlap=overlap and self.on_gpu,
            bucket=min(BUCKET, trainable),
            **rates,
        )
        return Trainer(start_engine(model, optimizer, config, self.world), model, self.world.device)

    def compile(self, trainer: Trainer) -> None:
        """Compiles the trainer's encoders, as `--compile` does."""
        trainer.model.compile_encoders()

    def seconds(self, work: Callable[[], object]) -> float:
        """Of `work`, waiting for the device at both ends."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Waits for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Starts a new measurement of `peak_gib`."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """Of tensors since `reset_peak`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else 0.0


def free_memory() -> None:
    """Frees unreferenced objects and CUDA's cached memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def timed_modules(bench: Bench, modules: dict[str, list[torch.nn.Module]]) -> Iterator[dict[str, float]]:
    """Seconds that the forward passes of these modules take inside the `with` block, by name."""
    spent: dict[str, float] = defaultdict(float)
    handles = []

    def now() -> float:
        bench.wait()
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
