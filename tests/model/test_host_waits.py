"""Nothing in a training step makes the host wait for the device: no value is read back, none is sent over blocking.

Shown on the CPU by counting the operations that wait on a GPU.
"""

import re
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dataloaders.batching.collate import Collator
from model.systems import SYSTEMS
from tests.tiny import text_only_sample, tiny_model, tiny_samples
from training import loop
from training.loop import Schedule
from training.progress import StepMeter
from utils.distributed import World

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
OURS = re.compile(re.escape(str(Path(__file__).parents[2])) + "/(model|dataloaders|utils)/")
aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,  # reads a value
    aten.nonzero,  # the result's size is a value
    aten._unique2,
    aten.masked_select,
    aten.multinomial,  # checks its probabilities on the host
    aten.lift_fresh,  # torch.tensor(...): on a GPU a copy that waits
}


class _Reads(TorchFunctionMode):
    def __init__(self, found: Counter):
        super().__init__()
        self.found = found

    def __torch_function__(self, call, types, args=(), kwargs=None):
        if getattr(call, "__name__", "") in READS:
            self.found[where(call.__name__)] += 1
        return call(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, found: Counter):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        by_mask = call.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if call.overloadpacket in WAITING or by_mask:
            self.found[where(str(call))] += 1
        return call(*args, **(kwargs or {}))


def where(what: str) -> str:
    """The operation and the line of this project, or of a library, that asked for it."""
    frames = [frame for frame in traceback.extract_stack() if "test_host_waits" not in frame.filename]
    ours = [frame for frame in frames if OURS.match(frame.filename)]
    frame = ours[-1] if ours else frames[-1]
    return f"{what} in {frame.filename}:{frame.lineno} ({frame.line})"


@pytest.mark.parametrize("targets", [True, False], ids=["targets", "no_target"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_training_step_never_waits_for_the_device(system, targets):
    model, processor = tiny_model(system)
    batch = Collator(processor)([*tiny_samples(), text_only_sample()] if targets else [text_only_sample()])
    found = Counter()
    with _Reads(found), _Operations(found):
        model(batch).loss.backward()
    assert not found, "\n".join(f"{count} × {place}" for place, count in found.items())


class _PlainEngine:
    """A model and its optimizer with the face of DeepSpeed's engine, as far as the loop knows it."""

    def __init__(self, model: torch.nn.Module):
        self.module = model
        self.optimizer = SimpleNamespace(skip=False)
        self.train, self.zero_grad = model.train, model.zero_grad

    def __call__(self, batch):
        return self.module(batch)

    def backward(self, loss):
        loss.backward()

    def step(self):
        self.zero_grad()

    def get_lr(self):
        return [1e-3]

    def fp16_enabled(self):
        return False

    def was_step_applied(self):
        return True


def test_the_loop_reads_flags_once_an_optimizer_step_and_numbers_once_a_logging_interval(monkeypatch):
    model, processor = tiny_model()
    batch = Collator(processor)(tiny_samples())
    families = sorted({source.partition("/")[0] for source in batch.sources})
    schedule = Schedule(epochs=1, steps_per_epoch=4, accumulation=3, batch_size=2, world_size=1)
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    monkeypatch.setattr(loop, "optimizer_of", lambda engine: engine.optimizer)
    found = Counter()
    with _Reads(found), _Operations(found):
        loop.train(
            _PlainEngine(model), [batch] * 12, schedule, schedule.position_at(0),
            world=world, meter=StepMeter(model.config.num_layers, world.device, families), print_freq=4,
            progress=None, records=None, pause=lambda position: None,
        )  # fmt: skip
    reads = Counter()
    for place, count in found.items():
        if "lift_fresh" not in place:  # of numbers that the host has, for a copy that does not wait
            reads[place.split(":")[0].rsplit("/")[-1]] += count
    assert reads == {"bad_numbers.py": 4, "progress.py": 1}
