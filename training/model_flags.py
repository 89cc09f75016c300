"""What a training command line says about the model itself: flags that are fields of its configuration."""

from typing import Any

from model import settings
from training.config import TrainingConfig


def model_overrides(config: TrainingConfig) -> dict[str, Any]:
    """What the command line says about the model; the rest stays as the checkpoint has it."""
    return settings.model_overrides(vars(config))
