"""Nothing in a training step makes the host wait for the device: no value is read back, none is sent over blocking.

Shown on the CPU by counting the operations that wait on a GPU.
"""

import traceback
from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dataloaders.collate import Collator
from model.systems import SYSTEMS
from tests.tiny import text_only_sample, tiny_model, tiny_samples

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
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
    ours = [frame for frame in frames if "/model/" in frame.filename or "/dataloaders/" in frame.filename]
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
