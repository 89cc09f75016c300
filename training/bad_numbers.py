"""Losses and gradients that are not finite: found without waiting for the device, traced to their term and samples.

Every micro-batch leaves its flags on the device; they are read once, before the optimizer's step, together with
whether a stop was requested, or a checkpoint is due. What is bad never reaches the weights: training ends there, or
the step is left out.
"""

from collections.abc import Callable
from typing import Any

import torch

from dataloaders.batching.batch import Batch
from groundscore.errors import UserError
from model.outputs import GroundingOutput, LossParts
from training.engine import TrainingOptimizer, whole_weights
from training.progress import LOSSES
from utils.distributed import World
from utils.seeding import preserved_random_state, random_state, restore_random_state

SUMS = ("loss", "mask_loss")  # of the other terms
MOVING = ("reward_mean",)  # buffers that a forward pass moves
SHOWN = 5  # sources or parameters of one micro-batch


class NumberWatch:
    """Looks at every loss and gradient of a step. All processes take part in `check`, and decide alike.

    optimizer: has `skip`, see `engine.py`. budget: steps that may be left out in a run, of which `skipped` were.
    before_ending: called on all processes before bad numbers end training.
    gradients: False with fp16, whose loss scaling makes gradients overflow now and then, and leaves such steps out.
    """

    def __init__(
        self,
        engine: Any,
        optimizer: TrainingOptimizer,
        *,
        accumulation: int,
        world: World,
        budget: int,
        skipped: int = 0,
        gradients: bool = True,
        before_ending: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = print,
    ):
        self.engine, self.optimizer, self.model = engine, optimizer, engine.module
        self.accumulation = accumulation
        self.world = world
        self.budget, self.skipped = budget, skipped
        self.say, self.before_ending = say, before_ending
        self.sums: list[torch.Tensor] = []
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.hooks = [value.register_hook(self._take_gradient) for value in self.trained.values() if gradients]
        self.moving = [value for name, value in self.model.named_buffers() if name.split(".")[-1] in MOVING]

    def __enter__(self) -> "NumberWatch":
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()

    @property
    def skipping(self) -> bool:
        """Whether the present step is left out."""
        return self.optimizer.skip

    def begin(self) -> None:
        """A step begins."""
        self.batches, self.parts, self.states = [], [], []
        # By micro-batch: a flag per loss, and one for the gradients.
        self.bad = torch.zeros(self.accumulation, len(LOSSES) + 1, device=self.world.device)
        self.before = [buffer.clone() for buffer in self.moving]

    def expect(self, batch: Batch) -> None:
        """A micro-batch, as it came from the data, is about to go through the model."""
        self.batches.append(batch)
        self.states.append(random_state())
        self.sums = []

    def take(self, output: GroundingOutput) -> None:
        """Its `GroundingOutput`, after the backward pass."""
        flags, zero = self.bad[len(self.parts)], self.bad.new_zeros(())
        losses = [output.losses[name].detach().float() if name in output.losses else zero for name in LOSSES]
        flags[:-1] = ~torch.isfinite(torch.stack(losses))
        if self.sums:
            flags[-1] = ~torch.isfinite(torch.stack(self.sums)).all()
        self.parts.append(output.loss_parts)
        self.sums = []

    def check(self, step: int, *asked: bool) -> list[bool]:
        """The gradients of step number `step` are there, the optimizer has not seen them. For each of `asked`, whether
        it is true on any process. Where numbers are bad the step will change nothing; beyond the budget a `UserError`
        says why."""
        told = self.bad.new_tensor(asked)
        found = self.world.sum(torch.cat([self.bad.flatten(), told])).tolist()
        bad, told = found[: self.bad.numel()], found[self.bad.numel() :]
        if any(bad):
            self.skipped += 1
            report = self._report(step, torch.tensor(bad).view_as(self.bad.cpu()))
            if self.skipped > self.budget:
                self.before_ending()
                self._stop(report)
            self.say(f"{report}\nstep {step} is left out ({self.skipped} of --skip_nonfinite {self.budget})")
            for buffer, value in zip(self.moving, self.before, strict=True):
                buffer.copy_(value)
            self.optimizer.skip = True
        return [value > 0 for value in told]

    def after_step(self, step: int) -> None:
        """DeepSpeed's step is done. One that changed nothing still counts in the schedule of the learning rate."""
        if not self.engine.was_step_applied():
            self.engine.lr_scheduler.step()
            if not self.optimizer.skip:
                scale = self.engine.optimizer.loss_scale
                self.say(f"step {step} is left out: its gradients overflow fp16; the loss is scaled by {scale:g} now")
        self.optimizer.skip = False

    def _take_gradient(self, gradient: torch.Tensor) -> None:
        # A sum is not finite where one of its terms is not, and one kernel.
        self.sums.append(gradient.detach().sum(dtype=torch.float32))

    def _stop(self, report: str) -> None:
        if not self.world.is_main:
            raise SystemExit(2)  # one rank prints it
        raise UserError(
            f"{report}\nThe last checkpoint is unchanged. Look at these samples; try a smaller --lr, --precision fp32 "
            "or bf16, or --skip_nonfinite N to leave out up to N such steps"
        )

    def _report(self, step: int, everywhere: torch.Tensor) -> str:
        """What is bad, in which samples; everywhere: the flags summed over all processes."""
        first = int(everywhere.any(dim=1).nonzero()[0])
        gradients_only = not everywhere[:, :-1].any()
        traced = self._trace(first) if gradients_only else None
        ours = self.bad.tolist()
        found = [
            f"  {self._where(number)}: {_what(flags, traced if number == first else None)}, in "
            + _list(bad_sources(self.batches[number], self.parts[number]))
            for number, flags in enumerate(ours)
            if any(flags[:-1]) or (gradients_only and flags[-1])
        ]
        lines = [line for lines in self.world.gather(found) for line in lines]
        return "\n".join([f"step {step}: not finite", *lines])

    def _where(self, number: int) -> str:
        return f"process {self.world.rank}, micro-batch {number + 1} of {self.accumulation}"

    def _trace(self, number: int) -> str | None:
        """Losses are finite, but not their gradients: micro-batch `number` goes through the model again, term by term.

        All processes do so, since a forward pass may communicate. None where this one has no bad gradient.
        """
        mine = bool(self.bad[number, -1])
        parameters, found = list(self.trained.values()), []
        with preserved_random_state(), whole_weights(self.engine):
            restore_random_state(self.states[number])
            output = self.model(self.batches[number].to(self.world.device))
            terms = {name: loss for name, loss in output.losses.items() if name not in SUMS} or {"loss": output.loss}
            for name, loss in terms.items():
                if not mine or not loss.requires_grad:
                    continue
                gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                broken = [
                    parameter
                    for parameter, gradient in zip(self.trained, gradients, strict=True)
                    if gradient is not None and not gradient.isfinite().all()
                ]
                if broken:
                    found.append(f"the gradient of {name} (for {_list(broken)})")
        return ", ".join(found) if mine and found else None


def _what(flags: list[float], traced: str | None) -> str:
    terms = [name for name, flag in zip(LOSSES, flags, strict=False) if flag]
    named = [name for name in terms if name not in SUMS] or terms
    return ", ".join(named) or traced or "the gradient"


def bad_sources(batch: Batch, parts: LossParts | None) -> list[str]:
    """The samples of a micro-batch whose own losses are not finite; all of them where these tell nothing."""
    sources = getattr(batch, "sources", ["a sample without a name"])
    if parts is None:
        return sources
    images = set()
    rows = batch.label_positions // batch.input_ids.shape[1]
    of_tokens, of_targets = batch.image_index[rows], batch.seg_image
    for values, image in ((parts.ce, of_tokens), (parts.bce, of_targets), (parts.dice, of_targets)):
        images.update(image[~values.cpu().isfinite()].tolist())
    return [sources[image] for image in sorted(images)] or sources


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
