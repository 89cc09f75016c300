"""Trackers of other people: the real packages, offline; without them, what to install."""

import logging

import numpy as np
import pytest

from groundscore.errors import UserError
from utils import trackers
from utils.trackers import TRACKERS, TrackedRun, Tracker, Trackers, tracker_names

SCALARS = {"train/loss": 0.5, "val/refcoco+_unc_val/giou": 0.25}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No account, no address and no folder of the machine's user."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "SWANLAB_API_KEY", "SWANLAB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def track(directory, name: str, step: int = 1) -> None:
    """A step with scalars, an image and a histogram."""
    directory.mkdir(exist_ok=True)
    run = Trackers([name], TrackedRun(directory, settings={"lr": 3e-4, "unset": None}, first_step=step - 1))
    run.scalars(step, SCALARS)
    run.histogram(step, "policy/layers", [0, 2, 1])
    run.image(step, "ReasonSeg_val/picture_1", np.full((4, 6, 3), 200, np.uint8))
    run.flush()
    assert run.names == [name], "it failed"
    run.close()


def content(directory, pattern: str) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob(pattern)) if path.is_file())


def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb", reason="pip install -r requirements-trackers.txt")

    track(tmp_path / "run", "wandb")
    track(tmp_path / "run", "wandb", step=2)

    saved = content(tmp_path / "run/wandb", "*.wandb")
    for name in (*SCALARS, "policy/layers", "ReasonSeg_val/picture_1", "lr"):
        assert name.encode() in saved, name
    assert len(list((tmp_path / "run/wandb").glob("offline-run-*/files/media/images/ReasonSeg_val/*.png"))) == 2
    assert len({path.name.rpartition("-")[2] for path in (tmp_path / "run/wandb").glob("offline-run-*")}) == 1  # one id


def test_swanlab_offline(tmp_path):
    pytest.importorskip("swanlab", reason="pip install -r requirements-trackers.txt")

    track(tmp_path / "run", "swanlab")

    saved = content(tmp_path / "run/swanlab", "*.swanlab")
    for name in (*SCALARS, "ReasonSeg_val/picture_1"):
        assert name.encode() in saved, name
    assert list((tmp_path / "run/swanlab").rglob("*.png"))


def test_mlflow_offline_goes_on_with_its_run(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="pip install -r requirements-trackers.txt")

    track(tmp_path / "run", "mlflow")
    track(tmp_path / "run", "mlflow", step=2)

    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "run/mlruns").as_uri())
    experiment = client.get_experiment_by_name("uground")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"train/loss": 0.5, "val/refcoco__unc_val/giou": 0.25}
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]
    assert run.data.params["lr"] == "0.0003" and run.info.status == "FINISHED"
    assert len(list((tmp_path / "run/mlruns").rglob("*.png"))) == 2


def test_names_are_a_list_and_none_is_alone():
    assert tracker_names("tensorboard, tensorboard") == ["tensorboard"]
    assert tracker_names("none") == []
    with pytest.raises(UserError, match="none excludes the others"):
        tracker_names("tensorboard,none")
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'.*Did you mean 'tensorboard'"):
        tracker_names("tensorbord")


@pytest.mark.parametrize("name", ["wandb", "swanlab", "mlflow"])
def test_what_is_not_installed_is_told_with_the_command(name, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda package: None)

    with pytest.raises(UserError, match=f"--tracker {name} needs {name}: pip install -r requirements-trackers.txt"):
        tracker_names(f"tensorboard,{name}")


class Broken(Tracker):
    """Fails at its second step."""

    name = package = "broken"

    def __init__(self, run):
        self.seen = []

    def scalars(self, step, values):
        if self.seen:
            raise ConnectionError("gone")
        self.seen.append(step)

    def image(self, step, name, image):
        pass

    def close(self):
        pass


class Kept(Broken):
    name = package = "kept"

    def scalars(self, step, values):
        self.seen.append(step)


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(TRACKERS, "broken", Broken)
    monkeypatch.setitem(TRACKERS, "kept", Kept)
    run = Trackers(["broken", "kept"], TrackedRun(tmp_path))

    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            run.scalars(step, SCALARS)

    assert run.names == ["kept"]
    assert caplog.text.count("tracker broken failed and gets no more numbers") == 1


def test_a_tracker_that_cannot_begin_is_an_error_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "kept", lambda run: 1 / 0)

    with pytest.raises(UserError, match="--tracker kept cannot begin"):
        Trackers(["kept"], TrackedRun(tmp_path))
