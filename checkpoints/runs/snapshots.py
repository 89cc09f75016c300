"""Copies of what DeepSpeed would write, so that a thread can write them while training continues.

At every ZeRO stage DeepSpeed hands all that it saves to its "checkpoint engine". For the time of a save another one
replaces it, which keeps copies in the CPU's memory instead of writing.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def snapshot(value: Any, copies: dict[int, torch.UntypedStorage]) -> Any:
    """A copy on the CPU of nested containers with tensors; tensors that share memory share it in the copy.

    copies: the storages that were copied already, by address. Other values than containers are copied by `deepcopy`.
    """
    if isinstance(value, Tensor):
        return _copy_tensor(value.detach(), copies)
    if isinstance(value, dict):
        result = copy.copy(value)  # keeps its class and attributes
        for key, item in value.items():
            result[key] = snapshot(item, copies)
        return result
    if isinstance(value, list):
        return [snapshot(item, copies) for item in value]
    if type(value) is tuple:
        return tuple(snapshot(item, copies) for item in value)
    return copy.deepcopy(value)


def _copy_tensor(tensor: Tensor, copies: dict[int, torch.UntypedStorage]) -> Tensor:
    storage = tensor.untyped_storage()
    address = storage.data_ptr()
    if address not in copies or address == 0:  # empty ones have no address
        copies[address] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(copies[address], tensor.storage_offset(), tensor.shape, tensor.stride())


class Capture:
    """Stands for DeepSpeed's checkpoint engine while it saves; `files` holds what it would have written."""

    def __init__(self, original: Any):
        self.original = original
        self.files: dict[Path, Any] = {}
        self._copies: dict[int, torch.UntypedStorage] = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Called by DeepSpeed, once for each file of this process."""
        self.files[Path(path)] = snapshot(state_dict, self._copies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def capture(engine: Any, directory: Path, tag: str) -> dict[Path, Any]:
    """Let the engine save below `directory`; what this process has to write, by file. All processes call this."""
    original = getattr(engine, "checkpoint_engine", None)
    captured = engine.checkpoint_engine = Capture(original)
    try:
        engine.save_checkpoint(str(directory), tag=tag, save_latest=False, exclude_frozen_parameters=True)
    finally:
        engine.checkpoint_engine = original
    return captured.files
