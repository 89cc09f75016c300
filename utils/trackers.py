"""Tools that show the numbers and images of a run while it trains: TensorBoard, Weights & Biases, SwanLab, MLflow.

All get the same scalars and images under the same names. Offline, which is the default, they write below the run and
nothing leaves the machine; online, they use the account that their own environment variables or login name. The
identifiers by which a resumed run is the same run there are kept in `trackers.json` of the run.
"""

import importlib.util
import logging
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from groundscore.errors import UserError, describe
from groundscore.names import look_up
from groundscore.reading import read_json
from groundscore.writing import write_json

NONE = "none"
IDS_FILE = "trackers.json"
_LOG = logging.getLogger(__name__)


class Tracker(ABC):
    """Where scalars and images of a run go. x is the number of optimizer steps done.

    name: for `--tracker`. package: what has to be installed, and is in requirements-trackers.txt, or None.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None

    @abstractmethod
    def __init__(self, run: "TrackedRun"):
        """Begin, or go on with, a run. Raises whatever the tool raises."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers by their names."""

    @abstractmethod
    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Show an image, uint8 [H, W, 3]."""

    def histogram(self, step: int, name: str, counts: Sequence[int]) -> None:  # noqa: B027 (not every tool has them)
        """Show how often each index occurred, where the tool has histograms."""

    def flush(self) -> None:  # noqa: B027
        """Let it be seen."""

    @abstractmethod
    def close(self) -> None:
        """End the run there."""


class TrackedRun:
    """A run as trackers know it.

    directory: of the run. name, project: what it is called there. settings: its flags. first_step: the step that
    training resumes from. online: send to the tool's server.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "",
        project: str = "uground",
        settings: Mapping[str, Any] | None = None,
        first_step: int = 0,
        online: bool = False,
    ):
        self.directory, self.name, self.project = directory, name or directory.name, project
        self.settings, self.first_step, self.online = dict(settings or {}), first_step, online

    def identifier(self, tool: str, make: Callable[[], str] = lambda: secrets.token_hex(8)) -> str:
        """Returns by what the run is known to a tool, the same whenever it is resumed."""
        path = self.directory / IDS_FILE
        try:
            known = read_json(path)
        except UserError:
            known = {}
        if not isinstance(known, dict) or not isinstance(known.get(tool), str):
            known = {**(known if isinstance(known, dict) else {}), tool: make()}
            write_json(path, known)
        return known[tool]


# --- the tools --------------------------------------------------------------------------------------------------------


class TensorBoard(Tracker):
    """Event files in `tensorboard/` of the run; what an interrupted run wrote beyond `first_step` is hidden."""

    name = "tensorboard"

    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter

        directory = str(run.directory / "tensorboard")
        self._writer = SummaryWriter(directory, purge_step=run.first_step + 1, flush_secs=15)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def histogram(self, step: int, name: str, counts: Sequence[int]) -> None:
        chosen = [(index, count) for index, count in enumerate(counts) if count]
        self._writer.add_histogram_raw(
            name,
            min=chosen[0][0],
            max=chosen[-1][0],
            num=sum(counts),
            sum=sum(index * count for index, count in chosen),
            sum_squares=sum(index * index * count for index, count in chosen),
            bucket_limits=[index + 0.5 for index in range(len(counts))],
            bucket_counts=list(counts),
            global_step=step,
        )

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """Weights & Biases; offline in `wandb/` of the run, for `wandb sync`."""

    name = "wandb"
    package = "wandb"

    def __init__(self, run: TrackedRun):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            dir=str(run.directory),
            id=run.identifier(self.name),
            resume="allow" if run.online else None,
            config=run.settings,
            mode="online" if run.online else "offline",
        )
        # A step of its own: wandb's may not go back, as a resumed run does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({"step": step, name: self._wandb.Image(image)})

    def histogram(self, step: int, name: str, counts: Sequence[int]) -> None:
        edges = np.arange(len(counts) + 1) - 0.5
        self._run.log({"step": step, name: self._wandb.Histogram(np_histogram=(np.asarray(counts), edges))})

    def close(self) -> None:
        self._run.finish()


class SwanLab(Tracker):
    """SwanLab; offline in `swanlab/` of the run, for `swanlab sync`."""

    name = "swanlab"
    package = "swanlab"

    def __init__(self, run: TrackedRun):
        import swanlab

        self._swanlab = swanlab
        self._run = swanlab.init(
            project=run.project,
            name=run.name,
            log_dir=str(run.directory / "swanlab"),
            id=run.identifier(self.name) if run.online else None,
            resume="allow" if run.online else None,
            config=run.settings,
            mode="online" if run.online else "offline",
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._swanlab.log(dict(values), step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._swanlab.log({name: self._swanlab.Image(image)}, step=step)

    def close(self) -> None:
        self._swanlab.finish()


class MlFlow(Tracker):
    """MLflow; offline in `mlruns/` of the run, online at MLFLOW_TRACKING_URI. Signs that its names cannot have, such as
    the + of refcoco+, become _."""

    name = "mlflow"
    package = "mlflow"

    def __init__(self, run: TrackedRun):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        if run.online:
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                raise UserError("--tracker mlflow online needs MLFLOW_TRACKING_URI, the address of its server")
            self._client = MlflowClient()
        else:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask before they write files
            self._client = MlflowClient(tracking_uri=(run.directory / "mlruns").absolute().as_uri())
        experiment = self._client.get_experiment_by_name(run.project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
        self._id = run.identifier(self.name, lambda: self._client.create_run(number, run_name=run.name).info.run_id)
        self._client.update_run(self._id, status="RUNNING")
        if run.first_step == 0:  # a parameter may not change there
            params = [Param(name, str(value)[:500]) for name, value in run.settings.items()]
            for start in range(0, len(params), 100):
                self._client.log_batch(self._id, params=params[start : start + 100])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_mlflow_name(name), float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._client.log_image(self._id, image, key=_mlflow_name(name), step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name)


TRACKERS: dict[str, type[Tracker]] = {each.name: each for each in (TensorBoard, WeightsAndBiases, SwanLab, MlFlow)}


# --- several at once --------------------------------------------------------------------------------------------------


def tracker_names(text: str) -> list[str]:
    """Returns the names that a list joined by commas has, none for "none". Raises `UserError` for an unknown tool, and
    for one whose package is not installed."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if NONE in names:
        if len(names) > 1:
            raise UserError(f"--tracker {text}: {NONE} excludes the others")
        return []
    for name in names:
        package = look_up(name, TRACKERS, "tracker").package
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(f"--tracker {name} needs {package}: pip install -r requirements-trackers.txt")
    return names


class Trackers:
    """Several trackers as one. One that fails while a run goes on is left out from then on, and this is said: training
    does not stop for it, and the numbers are in metrics.jsonl, too."""

    def __init__(self, names: Sequence[str], run: TrackedRun):
        self._trackers: list[Tracker] = []
        for name in names:
            try:
                self._trackers.append(TRACKERS[name](run))
            except UserError:
                raise
            except Exception as error:  # of other people's programs anything may come
                raise UserError(f"--tracker {name} cannot begin: {describe(error)}") from error

    @property
    def names(self) -> list[str]:
        """Of those that still get numbers."""
        return [tracker.name for tracker in self._trackers]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.scalars(step, values))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.image(step, name, image))

    def histogram(self, step: int, name: str, counts: Sequence[int]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.histogram(step, name, counts))

    def flush(self) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        """End the run everywhere."""
        self._each(lambda tracker: tracker.close())
        self._trackers = []

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                act(tracker)
            except Exception as error:
                if tracker.package is None:
                    raise
                self._trackers.remove(tracker)
                _LOG.warning("tracker %s failed and gets no more numbers (%s)", tracker.name, describe(error))
