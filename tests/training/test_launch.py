"""The beginning of a launch: its lock, and an earlier run moved aside."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.runs import BEST, LATEST
from groundscore.errors import UserError
from tests.training.test_checkpoints import ALONE, fake_checkpoint
from tests.training.test_train_ds import ROOT, run_train_ds
from training.arguments import parse_arguments
from training.launch import Owner, RunLock, move_earlier_run
from utils.processes import ProcessId

HOLD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from groundscore.errors import UserError
from training.launch import RunLock
try:
    RunLock(Path(sys.argv[1])).acquire(SimpleNamespace(is_main=True, broadcast=lambda value: value))
except UserError:
    print("refused", flush=True)
    sys.exit()
print("taken", flush=True)
sys.stdin.read()
"""


def start_holder(run_dir: Path) -> subprocess.Popen:
    """A process that takes the lock if it can, says so, and holds it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def write_owner(run_dir: Path, **changes) -> Path:
    """The lock of this process, with changes to the process that it names."""
    owner = Owner.ourselves()
    path = RunLock(run_dir).path
    path.write_text(json.dumps(replace(owner, process=replace(owner.process, **changes)).to_dict()))
    return path


def test_a_second_launch_is_refused_until_the_first_has_ended(tmp_path):
    first = start_holder(tmp_path / "run")
    assert first.stdout.readline() == "taken\n"
    with pytest.raises(UserError, match=f"in use by process {first.pid} on host {os.uname().nodename}.*--exp_name"):
        RunLock(tmp_path / "run").acquire(ALONE)
    (tmp_path / "other name").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match=f"kill {first.pid}"):
        RunLock(tmp_path / "other name").refuse_second_launch()
    RunLock(tmp_path / "another run").refuse_second_launch()
    first.communicate("")
    assert not RunLock(tmp_path / "run").path.exists()


def test_the_lock_of_a_killed_launch_is_taken_over(tmp_path, capsys):
    first = start_holder(tmp_path / "run")
    first.stdout.readline()
    first.kill()  # and nobody has asked for its exit code yet: it is a zombie
    while "Z" not in Path(f"/proc/{first.pid}/stat").read_text():
        time.sleep(0.01)
    lock = RunLock(tmp_path / "run")
    lock.acquire(ALONE)
    assert f"process {first.pid} on {os.uname().nodename}, which no longer runs" in capsys.readouterr().err
    lock.release()
    first.communicate()


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"started": 1}, True),  # a later process has the number of the owner
        ({"boot": "before the power failure"}, True),
        ({"host": "renamed"}, False),
        ({"host": "elsewhere", "boot": "another"}, False),
        ({"namespace": "pid:[1]"}, False),
    ],
)
def test_an_owner_that_is_gone_is_told_from_one_that_is_not_or_may_not_be(tmp_path, changes, taken):
    path = write_owner(tmp_path / "run", **changes)
    lock = RunLock(tmp_path / "run")
    if taken:
        lock.acquire(ALONE)
        lock.release()
        return
    with pytest.raises(UserError, match="in use by process") as refused:
        lock.acquire(ALONE)
    unknown = "cannot be told from here" in str(refused.value) and f"delete {path}" in str(refused.value)
    assert unknown == (changes != {"host": "renamed"})


def test_a_job_that_slurm_starts_again_on_another_machine_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    write_owner(tmp_path / "run", host="elsewhere", boot="another")
    lock = RunLock(tmp_path / "run")
    with pytest.raises(UserError):
        lock.acquire(ALONE)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lock.acquire(ALONE)
    lock.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', "\x00", "[" * 100_000])
def test_a_lock_that_cannot_be_read_keeps_nobody_out(tmp_path, content, monkeypatch):
    monkeypatch.setattr("training.launch.READING_SECONDS", 0.02)
    lock = RunLock(tmp_path / "run")
    lock.path.write_text(content)
    lock.acquire(ALONE)
    assert Owner.read(lock.path).process == ProcessId.of(os.getpid())
    lock.release()


def test_of_several_launches_that_find_an_old_lock_one_gets_it(tmp_path):
    write_owner(tmp_path / "run", started=1)
    holders = [start_holder(tmp_path / "run") for _ in range(4)]
    said = [holder.stdout.readline() for holder in holders]
    assert sorted(said) == ["refused\n"] * 3 + ["taken\n"]
    for holder in holders:
        holder.communicate("")
    assert os.listdir(tmp_path) == []


def test_train_ds_leaves_a_run_alone_that_another_process_trains(tmp_path):
    (tmp_path / "runs").mkdir()
    write_owner(tmp_path / "runs" / "one")
    done = run_train_ds(
        "--dataset_dir", tmp_path, "--version", ".", "--log_base_dir", tmp_path / "runs", "--exp_name", "one"
    )
    assert done.returncode == 2
    assert f"in use by process {os.getpid()} on host {os.uname().nodename}" in done.stderr
    assert done.stderr.count("\n") == 1 and os.listdir(tmp_path / "runs") == [".one.lock"]


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with everything that a run leaves behind, and a merged model in it."""
    directory = tmp_path / "runs" / "kite"
    fake_checkpoint(directory / LATEST, 4)
    fake_checkpoint(directory / BEST, 2)
    for name in ("scores.json", "metrics.jsonl", "meta/meta_1.log", "tensorboard/events", "merged/config.json"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(name)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def launch(run: Path, *flags: str) -> None:
    arguments = ["--log_base_dir", str(run.parent), "--exp_name", run.name, *flags]
    move_earlier_run(parse_arguments(arguments), ALONE)


def test_a_fresh_start_moves_the_earlier_run_aside_whole(run, capsys):
    before = contents(run)
    launch(run, "--no_resume")
    assert contents(run.parent / "kite.1") == before and not run.exists()
    assert f"the earlier run is kept in {run.parent}/kite.1" in capsys.readouterr().out
    fake_checkpoint(run / LATEST, 1)
    launch(run, "--no_resume")
    assert contents(run.parent / "kite.1") == before and (run.parent / "kite.2" / LATEST).is_dir()


@pytest.mark.parametrize("flags", [(), ("--resume_from_best",), ("--no_save_ckpt",), ("--eval_only", "--no_resume")])
def test_a_run_that_goes_on_stays_where_it_is(run, flags):
    before = contents(run)
    launch(run, *flags)
    assert contents(run) == before and [path.name for path in run.parent.iterdir()] == ["kite"]


def test_a_checkpoint_of_the_run_itself_is_gone_on_from_in_its_place(run):
    launch(run, "--resume", str(run / BEST / "global_step2"))
    assert run.is_dir()
    other = fake_checkpoint(run.parent / "other" / LATEST, 7)
    launch(run, "--resume", str(other))
    assert (run.parent / "kite.1" / LATEST / "global_step4").is_dir()


def test_the_best_alone_is_not_replaced_by_a_run_that_starts_afresh(run):
    (run / LATEST).rename(run / "elsewhere")
    launch(run)
    assert (run.parent / "kite.1" / BEST / "global_step2").is_dir()


def test_a_launch_that_failed_before_it_trained_is_not_moved(tmp_path):
    run = tmp_path / "runs" / "kite"
    (run / "meta").mkdir(parents=True)
    launch(run, "--no_resume")
    assert run.is_dir()


def test_a_name_that_is_taken_is_never_written_over(run):
    (run.parent / "kite.1").symlink_to("nowhere")
    launch(run, "--no_resume")
    assert (run.parent / "kite.2" / BEST).is_dir()


def test_a_run_that_holds_the_base_of_the_next_is_not_moved(run):
    with pytest.raises(UserError, match="--version .*merged lies in .*kite, which a new run moves aside"):
        launch(run, "--no_resume", "--version", str(run / "merged"))
    assert run.is_dir()


def test_a_linked_run_keeps_its_link(run):
    link = run.parent / "link"
    link.symlink_to(run)
    launch(link, "--no_resume")
    assert (run.parent / "kite.1" / BEST).is_dir() and link.is_symlink() and link.is_dir()
