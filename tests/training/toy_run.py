"""Trains a toy with the real engine, loop and checkpoints: python tests/training/toy_run.py RUN_DIR OPTIONS_JSON.

Options: epochs, stop_at (step after which the process exits as if killed), precision, zero_stage, resume, keep.
The main process prints one JSON line: step, parameters, learning rates, the samples each process saw.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.outputs import GroundingOutput
from utils.distributed import join_world
from utils.seeding import seed_everything
from utils.training.building import build_batches
from utils.training.checkpoints import LATEST, find_checkpoint, resume, save_checkpoint
from utils.training.engine import build_optimizer, engine_config, start_engine
from utils.training.loop import Schedule, train
from utils.training.metering import StepMeter
from utils.training.progress import Progress
from utils.training.tensorboard import Records

LR = 1e-2


@dataclass
class ToyBatch:
    numbers: Tensor

    def to(self, device):
        return self


class ToyModel(nn.Module):
    """A frozen layer, a trained one with noise from torch's generator, and a baseline buffer."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(4, 8).requires_grad_(False)
        self.trained = nn.Linear(8, 1)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, batch: ToyBatch) -> GroundingOutput:
        self.seen += batch.numbers.tolist()
        angles = batch.numbers[:, None] * torch.tensor([0.1, 0.2, 0.3, 0.4])
        hidden = self.frozen(torch.sin(angles).to(self.frozen.weight.dtype))
        loss = (self.trained(hidden) + 0.1 * torch.randn(1) - 1).float().square().mean()
        with torch.no_grad():
            self.reward_mean.lerp_(loss.float(), 0.1)
        layers = torch.bincount(batch.numbers % 3, minlength=3)
        return GroundingOutput(loss, {"loss": loss, "ce_loss": loss}, {"policy/entropy": loss, "policy/layers": layers})


class Numbers:
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        epoch, item = index
        return 100 * epoch + item


def main() -> None:
    run_dir, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    world = join_world("cpu")
    seed_everything(0)
    schedule = Schedule(epochs=options.get("epochs", 2), steps_per_epoch=2, accumulation=2, batch_size=2,
                        world_size=world.size)  # fmt: skip
    model = ToyModel()
    config = engine_config(
        batch_size=2, accumulation=2, world_size=world.size, precision=options.get("precision", "fp32"),
        zero_stage=options.get("zero_stage", 2), lr=LR, warmup_min_lr=0.0, warmup_num_steps=2,
        total_steps=schedule.total_steps, overlap=False,
    )  # fmt: skip
    engine = start_engine(model, build_optimizer(model, lr=LR, betas=(0.9, 0.95)), config, world)
    seed_everything(world.rank)
    start = schedule.position_at(0)
    if options.get("resume"):
        start = resume(engine, find_checkpoint(run_dir / LATEST), world)

    def pause(position):
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        settings = {"flags": {}, "trained": names}
        save_checkpoint(
            engine, run_dir / LATEST, position=position, settings=settings, keep=options.get("keep", 1), world=world
        )
        if position.step == options.get("stop_at"):
            sys.stdout.flush()
            os._exit(0)

    train(
        engine,
        build_batches(Numbers(), lambda items: ToyBatch(torch.tensor(items)), schedule, start, world, 0),
        schedule,
        start,
        world=world,
        meter=StepMeter(3, world.device),
        print_freq=1,
        progress=Progress(
            total_steps=schedule.total_steps, steps_per_epoch=2, samples_per_step=schedule.samples_per_step
        )
        if world.is_main
        else None,
        records=Records(run_dir, first_step=start.step) if world.is_main else None,
        pause=pause,
    )
    seen = [None] * world.size
    torch.distributed.all_gather_object(seen, model.seen)
    if world.is_main:
        result = {
            "trained": {name: p.detach().float().flatten().tolist() for name, p in model.trained.named_parameters()},
            "reward_mean": model.reward_mean.item(),
            "reward_mean_dtype": str(model.reward_mean.dtype),
            "seen": seen,
        }
        print("RESULT " + json.dumps(result))
    world.close()


if __name__ == "__main__":
    main()
