"""Tensors under our names from several files, read one at a time, and copied strictly into a model."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from checkpoints.files import TensorFiles
from groundscore.errors import UserError

SHOWN, NAME_LENGTH = 10, 200
FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _TensorOnDisk:
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    their_name: str


class Weights(Mapping[str, Tensor]):
    """Where each tensor of a model comes from; `[name]` reads it."""

    def __init__(self) -> None:
        self._stored: dict[str, _TensorOnDisk] = {}

    def add(self, tensors: Mapping[str, Tensor], translate: Callable[[str], tuple[str, ...]], source: str) -> None:
        """All of `tensors` (a dictionary or `TensorFiles`) that `translate` gives names of ours."""
        for theirs in tensors:
            for ours in translate(theirs):
                if ours in self._stored:
                    raise UserError(f"{source}: {self.their_name(ours)} and {theirs} are both our {ours}")
                self._stored[ours] = _tensor_on_disk(tensors, theirs, source)

    def replace(self, tensors: TensorFiles, translate: Callable[[str], str], source: str) -> None:
        """All of `tensors`, also under names of ours that are there already, which stay named as they were."""
        for theirs in tensors:
            stored = _tensor_on_disk(tensors, theirs, source)
            self.put(translate(theirs), stored.shape, stored.read)

    def put(self, name: str, shape: tuple[int, ...], read: Callable[[], Tensor]) -> None:
        """Another way to get a tensor that may be there already."""
        theirs = self._stored[name].their_name if name in self._stored else name
        self._stored[name] = _TensorOnDisk(shape, read, theirs)

    def drop(self, prefixes: tuple[str, ...]) -> list[str]:
        """Forget the tensors whose names begin so; their names."""
        names = [name for name in self._stored if name.startswith(prefixes)]
        for name in names:
            del self._stored[name]
        return names

    def rename(self, old: str, new: str) -> None:
        """Give a tensor another name of ours."""
        self._stored[new] = self._stored.pop(old)

    def stack(self, module: str) -> None:
        """Make one tensor `module.weight` of those of numbered modules, `module.0.weight` and so on, row on row."""
        rows = [f"{module}.{index}.weight" for index in range(len(self._stored))]
        rows = [name for name in rows if name in self._stored]
        if not rows:
            return
        readers, shapes = [self.reader(name) for name in rows], [self.shape(name) for name in rows]
        for name in rows:
            del self._stored[name]
        shape = (sum(each[0] for each in shapes), *shapes[0][1:])
        self.put(f"{module}.weight", shape, lambda: torch.cat([read() for read in readers]))

    def has(self, prefix: str) -> bool:
        """Whether there is a tensor whose name begins so."""
        return any(name.startswith(prefix) for name in self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._stored[name].shape

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors."""
        return {name: stored.shape for name, stored in self._stored.items()}

    def reader(self, name: str) -> Callable[[], Tensor]:
        """The function that reads a tensor."""
        return self._stored[name].read

    def their_name(self, name: str) -> str:
        """The name of a tensor in its file, for messages."""
        return self._stored[name].their_name

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _tensor_on_disk(tensors: Mapping[str, Tensor], name: str, source: str) -> _TensorOnDisk:
    """Where the tensor of a name lies. Reading it raises `UserError` for numbers of another kind, such as quantised
    weights without their scales: all tensors of a model are floating-point."""

    def read() -> Tensor:
        tensor = tensors[name]
        if tensor.dtype not in FLOATING:
            raise UserError(
                f"{source}: {name} is of {str(tensor.dtype).removeprefix('torch.')}, not of fp64, fp32, fp16 or bf16; "
                "quantised weights are not read, take the original ones"
            )
        return tensor

    shape = tensors.shape(name) if isinstance(tensors, TensorFiles) else tuple(tensors[name].shape)
    return _TensorOnDisk(shape, read, name)


def listed(names: Collection[str]) -> str:
    """The first names and how many more there are."""
    names = sorted(name[:NAME_LENGTH] for name in names)
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def check_names(missing: Collection[str], unexpected: Collection[str], source: str) -> None:
    """Raise `UserError` for tensors that a model has and a checkpoint lacks, and the other way round."""
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} tensors are missing: {listed(missing)}")
    if unexpected:
        complaints.append(f"{len(unexpected)} tensors are not of this model: {listed(unexpected)}")
    if complaints:
        raise UserError(f"{source} does not fit the model; " + "; ".join(complaints))


def check_shapes(weights: Weights, targets: Mapping[str, Tensor], source: str) -> None:
    """Raise `UserError` for tensors that have another shape than the model's of their name, where it has one."""
    wrong = [
        f"{weights.their_name(name)} is {weights.shape(name)}, not {tuple(targets[name].shape)}"
        for name in weights
        if name in targets and weights.shape(name) != tuple(targets[name].shape)
    ]
    if wrong:
        raise UserError(f"{source} does not fit the model; {len(wrong)} tensors differ in shape: {listed(wrong)}")


@torch.no_grad()
def fill(model: nn.Module, weights: Weights, source: str) -> None:
    """Copy every tensor into the parameter or buffer of its name, converted to its type and device.

    Raises `UserError` for NaN or infinity.
    """
    targets = model.state_dict(keep_vars=True)
    check_shapes(weights, targets, source)
    bad = []
    for name, tensor in weights.items():
        target = targets[name]
        target.copy_(tensor)
        # The cheapest pass: 20 GB/s a core, where `isfinite` reads 0.4. Sums of finite values hardly ever overflow.
        if not target.sum().isfinite() and not target.isfinite().all():
            bad.append(weights.their_name(name))
    if bad:
        raise UserError(
            f"{source}: {len(bad)} tensors contain NaN or infinity ({listed(bad)}); the training that wrote them "
            "diverged, or they are too large for fp16 (then pass --precision bf16)"
        )
