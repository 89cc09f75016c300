"""Trains a toy with the real engine, loop and checkpoints; `toys.py` starts it.

At the end the main process prints one line, "RESULT " and JSON: what the run came to, and what each process saw. For
every checkpoint that was written it prints "SAVED " and its step.
"""

import hashlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from checkpoints.runs import BEST, LATEST, Saver, copy_checkpoint, find_checkpoint, resume
from checkpoints.runs.resharding import optimizer_of
from model.outputs import GroundingOutput
from training.data import build_batches
from training.engine import build_optimizer, engine_config, start_engine, whole_weights
from training.loop import Schedule, train
from training.progress import Progress, StepMeter
from training.records import Records
from training.stopping import StopRequest
from utils.distributed import World, join_world, naming_lost_processes
from utils.seeding import random_state, seed_everything

os.environ["DS_ACCELERATOR"] = "cpu"  # before DeepSpeed is imported, where there is a GPU as well

POLICY_LR = 5e-2


@dataclass
class Options:
    """save_interval: 0 saves after every step. wait: for every save, instead of training meanwhile. seconds: that every
    step takes at least.

    bad: [number, "loss" or "gradient"], the sample whose numbers are not finite. skip: such steps that are left out.
    trouble: [rank, step, what], what being one of "die", "hang", "no space", "worker dies", "SIGTERM", "SIGINT",
        "SIGSTOP", "SIGTERM in the pause".
    """

    epochs: int = 2
    steps_per_epoch: int = 2
    save_interval: int = 0
    wait: bool = False
    precision: str = "fp32"
    zero_stage: int = 2
    keep: int = 1
    resume: bool = False
    seconds: float = 0.0
    workers: int = 0
    bad: tuple[int, str] | None = None
    skip: int = 0
    trouble: tuple[int, int, str] | None = None
    timeout: float = 60.0
    lr: float = 1e-2
    beta1: float = 0.9
    accumulation: int = 2
    noise: float = 0.1
    muon: bool = False


@dataclass
class ToyBatch:
    numbers: Tensor

    @property
    def sources(self) -> list[str]:
        return [f"toys/shelf {number}.jpg" for number in self.numbers.tolist()]

    def to(self, device):
        return self


class ToyPolicy(nn.Module):
    """Weighs its input by a gate, which has a learning rate of its own."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(8))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * (1 + self.gate)


class ToyModel(nn.Module):
    """A frozen layer, a gate, a trained layer with noise from torch's generator, and a baseline buffer."""

    def __init__(self, bad: tuple[int, str] | None, noise: float):
        super().__init__()
        self.frozen = nn.Linear(4, 8).requires_grad_(False)
        self.policy = ToyPolicy()
        self.trained = nn.Linear(8, 1)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.bad, self.noise = bad, noise
        self.seen: list[int] = []

    def forward(self, batch: ToyBatch) -> GroundingOutput:
        self.seen += batch.numbers.tolist()
        angles = batch.numbers[:, None] * torch.tensor([0.1, 0.2, 0.3, 0.4])
        hidden = self.frozen(torch.sin(angles).to(self.frozen.weight.dtype))
        answer = self.trained(self.policy(hidden)).float()
        ce_loss = (answer + self.noise * torch.randn(1) - 1).square().mean()
        mask_loss = (answer + 0.5).square().mean()
        if self.bad is not None and self.bad[0] in batch.numbers.tolist():
            # The root of 0 is 0, and steep.
            mask_loss = mask_loss * torch.nan if self.bad[1] == "loss" else mask_loss + (0 * answer).sum().sqrt()
        loss = ce_loss + mask_loss
        with torch.no_grad():
            self.reward_mean.lerp_(loss.float(), 0.1)
        layers = torch.bincount(batch.numbers % 3, minlength=3)
        losses = {"ce_loss": ce_loss, "mask_dice_loss": mask_loss, "loss": loss}
        return GroundingOutput(loss, losses, {"policy/entropy": loss, "policy/layers": layers})


class Numbers:
    """Item i of epoch e is 100 e + i."""

    def __init__(self, dies_at: int | None):
        self.dies_at = dies_at

    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        epoch, item = index
        if item == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return 100 * epoch + item


def main(argv: list[str]) -> None:
    options = Options(**json.loads(argv[1]))
    world = join_world("cpu", timeout=options.timeout)
    if options.precision == "fp16":
        pretend_fp16()
    with naming_lost_processes("at the start"):
        result = run(Path(argv[0]), options, world)
    if world.is_main:
        print("RESULT " + json.dumps(result))
    world.close()


def run(run_dir: Path, options: Options, world: World) -> dict:
    schedule = Schedule(
        epochs=options.epochs,
        steps_per_epoch=options.steps_per_epoch,
        accumulation=options.accumulation,
        batch_size=2,
        world_size=world.size,
        eval_interval=0 if options.save_interval else 1,
        save_interval=options.save_interval,
    )
    seed_everything(0)
    model = ToyModel(options.bad, options.noise)
    engine = start_toy_engine(model, options, schedule, world)
    seed_everything(world.rank)
    if options.trouble == [world.rank, 0, "die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    start = schedule.position_at(0)
    checkpoint = find_checkpoint(run_dir / LATEST)
    if options.resume and checkpoint is not None:
        start = resume(engine, checkpoint, world)
    rank, at, trouble = options.trouble or (None, None, None)
    ours = trouble if rank == world.rank else None

    def prepare(step: int) -> None:
        time.sleep(options.seconds)
        if step == at and ours == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == at and ours == "hang":
            time.sleep(10**6)
        if step == at and ours in ("SIGTERM", "SIGINT", "SIGSTOP"):
            os.kill(os.getpid(), getattr(signal, ours))

    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    settings = {"flags": {}, "model": {"system": "toy"}, "base": {}, "trained": names, "precision": "fp32"}
    saver = Saver(engine, world, settings)

    class Saves:
        """Saves without waiting, and keeps a copy as the best; with no `save_interval` after every step."""

        is_due = property(lambda self: not options.save_interval)
        is_writing = property(lambda self: saver.is_writing)
        finish = staticmethod(saver.finish)

        def save(self, position) -> None:
            if position.step == at and ours == "no space":
                forbid_writing()

            def done() -> None:
                if world.is_main:
                    print(f"SAVED {position.step}", flush=True)
                copy_checkpoint(target, run_dir / BEST, keep=1, world=world)

            target = run_dir / LATEST / f"global_step{position.step}"
            saver.start(run_dir / LATEST, position=position, keep=options.keep, done=done)
            if options.wait:
                saver.finish()

        ends = save

    def pause(position) -> None:
        torch.rand(3)  # as a validation might
        if position.step == at and ours == "SIGTERM in the pause":
            os.kill(os.getpid(), signal.SIGTERM)

    position = None
    with StopRequest() as stop, saver:
        position = train(
            engine,
            build_batches(
                Numbers(2 * rank if ours == "worker dies" else None), collate, schedule, start, world, options.workers
            ),
            schedule,
            start,
            world=world,
            meter=StepMeter(3, world.device),
            print_freq=1,
            progress=Progress(
                total_steps=schedule.total_steps,
                steps_per_epoch=schedule.steps_per_epoch,
                samples_per_step=schedule.samples_per_step,
            )
            if world.is_main
            else None,
            records=Records(run_dir, first_step=start.step) if world.is_main else None,
            pause=pause,
            saving=Saves(),
            prepare=prepare,
            stop=stop,
            skip_nonfinite=options.skip,
            timeout=options.timeout,
        )
    with whole_weights(engine):
        trained = {name: p.detach().float().flatten().tolist() for name, p in model.trained.named_parameters()}
        gate = model.policy.gate.tolist()
    result = {
        "step": position.step,
        "skipped": position.skipped,
        "trained": trained,
        "reward_mean": model.reward_mean.item(),
        "reward_mean_dtype": str(model.reward_mean.dtype),
        "gate": gate,
        "learning_rates": engine.get_lr(),
        "betas": list(optimizer_of(engine).param_groups[0]["betas"]),
        "states": world.gather(digest([list(optimizer_of(engine).state.values()), random_state()])),
        "schedule": engine.lr_scheduler.state_dict(),
        "seen": world.gather(model.seen),
    }
    engine.destroy()
    return result


def start_toy_engine(model: ToyModel, options: Options, schedule: Schedule, world: World):
    config = engine_config(
        batch_size=schedule.batch_size,
        accumulation=schedule.accumulation,
        world_size=world.size,
        precision=options.precision,
        zero_stage=options.zero_stage,
        lr=options.lr,
        policy_lr=POLICY_LR,
        muon=options.muon,
        warmup_min_lr=0.0,
        warmup_num_steps=2,
        total_steps=schedule.total_steps,
        overlap=False,
    )
    optimizer = build_optimizer(
        model, lr=options.lr, betas=(options.beta1, 0.95), policy_lr=POLICY_LR, muon=options.muon
    )
    return start_engine(model, optimizer, config, world)


def pretend_fp16() -> None:
    """Let DeepSpeed train in fp16 on any CPU: torch computes in it everywhere, if slowly."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def collate(items: list[int]) -> ToyBatch:
    return ToyBatch(torch.tensor(items))


def forbid_writing() -> None:
    """Every file of this process may have 8 KiB from now on, as on a disk that is nearly full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))


def digest(thing) -> str:
    """A hash of everything in nested dictionaries, lists and tensors."""
    total = hashlib.sha256()

    def add(thing) -> None:
        if isinstance(thing, dict):
            for name in sorted(thing, key=str):
                total.update(str(name).encode())
                add(thing[name])
        elif isinstance(thing, (list, tuple)):
            for item in thing:
                add(item)
        elif isinstance(thing, Tensor):
            total.update(thing.detach().flatten().view(torch.uint8).numpy().tobytes())
        else:
            total.update(repr(thing).encode())

    add(thing)
    return total.hexdigest()
