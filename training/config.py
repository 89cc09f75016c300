"""All settings of a training as one object: those of the model, of the data and of training itself."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataloaders.settings import declared_data
from model.settings import LoraSettings, declared
from training.settings import (
    BaseSettings,
    FileSettings,
    LoadingSettings,
    OptimisationSettings,
    RunSettings,
    TrainableSettings,
    ValidationSettings,
    split_list,
)
from utils.settings import compose


@dataclass
class TrainingConfig:
    """Everything that `train_ds.py` can be told: what all settings have in common; `config_class` adds the settings.

    given: names of the flags that stood on the command line or in a file.
    """

    given: frozenset[str] = frozenset()
    plugin: str = ""  # a flag of every program (`utils/plugins.py`)

    @property
    def run_name(self) -> str:
        """The directory of the run below `--log_base_dir`."""
        return self.exp_name or self.model_key

    @property
    def run_dir(self) -> Path:
        """The directory of the run."""
        return Path(self.log_base_dir) / self.run_name

    @property
    def log_dir(self) -> Path:
        """Where this launch writes: the run, or with `--eval_only` a directory in it."""
        return self.run_dir / "eval" if self.eval_only else self.run_dir

    @property
    def bad_samples_file(self) -> Path:
        """Where entries without a usable image or mask are listed."""
        return self.log_dir / "bad_samples.jsonl"

    @property
    def families(self) -> list[str]:
        """Names of the data-set families."""
        return split_list(self.dataset)

    @property
    def rates(self) -> list[float]:
        """A weight for each family."""
        return [float(rate) for rate in self.sample_rates.split(",")]

    @property
    def val_splits(self) -> list[str]:
        """The validation splits; the first selects the best checkpoint."""
        return split_list(self.val_dataset)

    @property
    def parts_to_unfreeze(self) -> tuple[str, ...]:
        """The names in `--unfreeze`."""
        return tuple(part.strip() for part in self.unfreeze.split(",") if part.strip())

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def entropy_weight_at(self, step: int) -> float:
        """The weight of the entropy bonus at optimizer step `step`, counted from 1."""
        if self.entropy_weight_end is None:
            return self.entropy_weight
        done = (step - 1) / max(self.total_steps - 1, 1)
        return self.entropy_weight + done * (self.entropy_weight_end - self.entropy_weight)

    def to_dict(self) -> dict[str, Any]:
        """All flags as JSON can hold them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "given"}


def parts() -> tuple[type, ...]:
    """The dataclasses that declare the settings of training, those of plugins among them: call it after their import.

    A class with a `check` method tells what contradicts each other.
    """
    return (
        FileSettings,
        BaseSettings,
        *declared(),
        *declared_data(),
        LoadingSettings,
        OptimisationSettings,
        LoraSettings,
        TrainableSettings,
        ValidationSettings,
        RunSettings,
    )


def config_class() -> type[TrainingConfig]:
    """`TrainingConfig` with all settings as fields."""
    return compose("TrainingConfig", *parts(), base=TrainingConfig)
