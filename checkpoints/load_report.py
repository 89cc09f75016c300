"""What became of a checkpoint's tensors: read, renamed, newly initialised, left out. Every program says it."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from checkpoints.adapting import EMBEDDINGS


@dataclass
class LoadReport:
    """What `load_model` did.

    read: tensors read; renamed: our name -> theirs of those with another name on disk; new: names of newly initialised
    tensors; new_tokens: newly initialised rows of the vocabulary; dropped: names of tensors that this system has no use
    for; notes: what else a user should know, such as flags that were ignored.
    """

    kind: str
    path: Path
    system: str
    read: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    new_tokens: int = 0
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line with what there is to say."""
        parts = [f"{self.system} from {self.kind} {self.path}: {self.read} tensors read, {len(self.renamed)} renamed"]
        if self.new:
            parts.append(f"newly initialised: {_tensors(self.new)}")
        if self.new_tokens:
            parts.append(f"newly initialised: {self.new_tokens} rows of the vocabulary")
        if self.dropped:
            parts.append(f"left out: {_tensors(self.dropped)}")
        return "; ".join([*parts, *self.notes])

    def whole(self) -> str:
        """The line, and below it the name of every tensor that was not read as it lies on disk."""
        lines = [f"  {ours} was {theirs}" for ours, theirs in self.renamed.items()]
        lines += [f"  newly initialised: {name}" for name in self.new]
        lines += [f"  left out: {name}" for name in self.dropped]
        return "\n".join([str(self), *lines])

    def after_training(self, trained: Collection[str], checkpoint: Path) -> "LoadReport":
        """The report with the weights of a training run laid over: `trained` names its parameters and buffers."""
        return replace(
            self,
            new=[name for name in self.new if name not in trained],
            new_tokens=0 if set(EMBEDDINGS) <= set(trained) else self.new_tokens,
            notes=[*self.notes, f"{len(trained)} tensors of {checkpoint} laid over"],
        )


def _tensors(names: list[str]) -> str:
    """How many tensors of which modules."""
    modules = ", ".join(sorted({name.split(".")[0] for name in names}))
    return f"{len(names)} tensor{'s' * (len(names) > 1)} of {modules}"
