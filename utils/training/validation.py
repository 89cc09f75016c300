"""What happens when training pauses: save, score every validation split, keep the best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.distributed import World
from utils.errors import UserError
from utils.training.checkpoints import BEST, LATEST, Position, Scores, copy_checkpoint, save_checkpoint
from utils.training.loop import Schedule
from utils.training.progress import Progress
from utils.training.tensorboard import Records


class Validation:
    """Validation splits, opened before training starts so that a wrong name or path is found at once."""

    def __init__(
        self,
        splits: Sequence[str],
        dataset_dir: str,
        *,
        answer: str,
        layer: str | None,
        batch_size: int,
        limit: int | None = None,
        workers: int = 0,
    ):
        from dataloaders.evaluation import evaluation_set

        self.dataset_dir = dataset_dir
        self.items = {split: evaluation_set(split, dataset_dir) for split in splits}
        for split, items in self.items.items():
            if len(items) == 0:
                raise UserError(f"--val_dataset {split}: no images below {dataset_dir}")
        self.options = {
            "answer": answer,
            "layer": int(layer) if layer is not None and layer.isdigit() else layer,
            "batch_size": batch_size,
            "limit": limit,
            "workers": workers,
        }

    @property
    def selecting(self) -> str:
        """The split that decides which checkpoint is best: the first."""
        return next(iter(self.items))

    def run(self, model, processor) -> dict[str, dict[str, Any]]:
        """Scores by split; every process takes part and gets the same."""
        from utils.evaluation import evaluate

        return {
            split: evaluate(model, processor, split, self.dataset_dir, items=items, **self.options).to_dict()
            for split, items in self.items.items()
        }


def describe_scores(scores: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{split} ({values['answer']}): gIoU {_percent(values['gIoU'])}, cIoU {_percent(values['cIoU'])}"
        for split, values in scores.items()
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


@dataclass
class Keeper:
    """Saves and validates at a pause.

    validation: None with `--no_eval`. save_latest: False keeps the best checkpoint only.
    settings: what a checkpoint records of its run. dropped: conversations that did not fit into a row so far.
    say: prints a line; records: None except on the main process.
    """

    engine: Any
    processor: Any
    run_dir: Path
    schedule: Schedule
    world: World
    validation: Validation | None
    settings: dict[str, Any]
    keep: int
    save_latest: bool
    scores: Scores
    dropped: Callable[[], int]
    say: Callable[[str], None]
    records: Records | None

    def pause(self, position: Position) -> None:
        """The latest checkpoint comes first: a crash while validating costs nothing."""
        if self.dropped():
            self.say(f"{self.dropped()} conversations dropped so far: too long for --model_max_length")
        saved = None
        if self.save_latest:
            saved = self._save(position, self.run_dir / LATEST, self.keep)
            self.say(f"step {position.step}: saved {saved}")
        self.validate(position, saved)

    def validate(self, position: Position, saved: Path | None) -> None:
        if self.validation is None:
            return
        results = self.validation.run(self.engine.module, self.processor)
        epoch = self.schedule.epoch_of(position.step)
        is_best = self.scores.add(position.step, epoch, results, self.validation.selecting)
        self.say(f"step {position.step}: {describe_scores(results)}" + (" (best so far)" if is_best else ""))
        if is_best and saved is not None:
            copy_checkpoint(saved, self.run_dir / BEST, keep=1, world=self.world)
        elif is_best:
            self._save(position, self.run_dir / BEST, 1)
        if self.world.is_main:
            self.scores.save()
        if self.records:
            for split, values in results.items():
                numbers = {name: values[name] for name in ("gIoU", "cIoU") if values[name] is not None}
                self.records.evaluation(position.step, split, numbers, selects=split == self.validation.selecting)

    def _save(self, position: Position, directory: Path, keep: int) -> Path:
        return save_checkpoint(
            self.engine, directory, position=position, settings=self.settings, keep=keep, world=self.world
        )


def new_progress(schedule: Schedule, world: World) -> Progress | None:
    if not world.is_main:
        return None
    return Progress(
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        samples_per_step=schedule.samples_per_step,
    )
