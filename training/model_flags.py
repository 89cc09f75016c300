"""What a training command line says about the model itself: flags that are fields of its configuration."""

from typing import Any

from model.settings import model_settings
from training.config import TrainingConfig


def model_overrides(config: TrainingConfig) -> dict[str, Any]:
    """What the command line says about the model; the rest stays as the checkpoint has it."""
    given = {name: getattr(config, name) for name in model_settings() if getattr(config, name) is not None}
    if "baseline_type" in given or given.get("reward") == "batch":
        given.setdefault("estimator", "sample")  # what these are about
    return given
