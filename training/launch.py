"""The beginning of a launch: its lock, an earlier run moved aside, its log and settings, and what code it runs.

One run directory, one run: a file beside it names the launch that trains there.

    runs/.<exp>.lock      host, process and start of the main process of the launch

The file appears complete, by a hard link, which is atomic on network disks as well, where `flock` may do nothing. It is
taken over when its owner is gone: killed, or from before the machine was restarted. Reading a run (merging, scoring,
`utils.tracking`) needs no lock. A launch that starts afresh renames an earlier run as a whole: `runs/<exp>.1`.
"""

import atexit
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.runs import BEST, LATEST, candidates_in
from checkpoints.runs.finding import move_aside
from checkpoints.runs.scores import SCORES
from groundscore.errors import UserError
from groundscore.schema import DamagedFile, optional, read_json, record, text, whole
from groundscore.terminal import wrapped
from groundscore.writing import write_text
from training.config import TrainingConfig
from training.config_files import settings_text
from training.records import METRICS_FILE
from training.resuming import resumed_from
from training.summaries import describe_flags
from utils.distributed import World
from utils.logging import OutputLog, add_memo, keep_log
from utils.processes import SHAPE, ProcessId
from utils.tracking.history import changes, damaged_launches, describe_surroundings, earlier_manifests
from utils.tracking.snapshot import record_launch

ROOT = Path(__file__).parents[1]
READING_SECONDS = 1.0  # for a lock that another process is just writing
READ = ("version", "vision_tower", "vision_pretrained", "weight", "dataset_dir", "resume", "cache_features")
_LOCK = record({**SHAPE, "since": text, "job": optional(record({"number": text, "restarts": whole(0)}))})


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. job: SLURM's number of the job and how often it was started again, where there is one."""

    process: ProcessId
    since: str
    job: tuple[str, int] | None

    @classmethod
    def ourselves(cls) -> "Owner":
        """This process."""
        return cls(ProcessId.of(os.getpid()), time.strftime("%Y-%m-%d %H:%M:%S %z"), _slurm_job(os.environ))

    def to_dict(self) -> dict[str, Any]:
        """The content of the lock file."""
        job = self.job and {"number": self.job[0], "restarts": self.job[1]}
        return {**self.process.to_dict(), "since": self.since, "job": job}

    @classmethod
    def read(cls, path: Path) -> "Owner":
        """Raises `DamagedFile` for anything but what a lock holds."""
        values = read_json(path, _LOCK)
        since, job = values.pop("since"), values.pop("job")
        return cls(ProcessId(**values), since, job and (job["number"], job["restarts"]))

    def runs(self) -> bool | None:
        """Whether it still trains; None where that cannot be told from here."""
        ours = _slurm_job(os.environ)
        if self.job and ours and self.job[0] == ours[0] and self.job[1] < ours[1]:
            return False  # SLURM has started the job again, after it had ended all processes of the one before
        return self.process.runs()


class RunLock:
    """The lock of a run directory; held until the process ends."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        place = run_dir.resolve()  # one directory may have several names
        self.path = place.with_name(f".{place.name}.lock")

    def refuse_second_launch(self) -> None:
        """Raise `UserError` if a process of this machine trains in the directory. Changes nothing, and needs no other
        process: two launches may even have one --master_port, and must not meet there."""
        owner = self._read()
        if owner is not None and owner.runs():
            raise UserError(self._in_use(owner))

    def acquire(self, world: World) -> None:
        """Take the lock on the main process; `UserError` on all processes if another launch has it."""
        problem = None
        if world.is_main:
            try:
                self._take()
            except UserError as error:
                problem = str(error)
            except OSError as error:
                problem = f"{self.path} cannot be written ({error.strerror}); a run needs a directory of its own there"
        problem = world.broadcast(problem)
        if problem is not None:
            raise UserError(problem)
        if world.is_main:
            atexit.register(self.release)

    def release(self) -> None:
        """Remove the lock if this process holds it."""
        owner = self._read()
        if owner is not None and owner.process == ProcessId.of(os.getpid()):
            self.path.unlink(missing_ok=True)

    def _take(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        ours = self.path.with_name(f"{self.path.name}.{os.uname().nodename}.{os.getpid()}")
        with ours.open("w", encoding="utf-8") as file:
            json.dump(Owner.ourselves().to_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        try:
            while not self._put(ours):
                self._clear(ours.with_name(f"{ours.name}.stale"))
        finally:
            ours.unlink()

    def _put(self, ours: Path) -> bool:
        """Give our file the name of the lock; False if there is one."""
        try:
            os.link(ours, self.path)
        except FileExistsError:
            return False
        except OSError:  # a disk without hard links
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(ours.read_text(encoding="utf-8"))
            except FileExistsError:
                return False
        return True

    def _clear(self, aside: Path) -> None:
        """Remove the lock of a launch that is gone; `UserError` for that of one that is not, or may not be.

        Two launches may find the same old lock. What was moved aside is therefore looked at again: if it is the new
        lock of the other one, it is put back.
        """
        owner = self._read()
        if owner is not None and owner.runs() is not False:
            raise UserError(self._in_use(owner))
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        moved = self._read(aside)
        if moved != owner:
            self._put(aside)
        aside.unlink()
        if moved == owner:
            whose = f"process {owner.process.pid} on {owner.process.host}" if owner else "nobody (it cannot be read)"
            print(f"{self.path} was left by {whose}, which no longer runs; this launch takes it over", file=sys.stderr)

    def _read(self, path: Path | None = None) -> Owner | None:
        """Who holds the lock; None where there is none, or one that cannot be read."""
        path, end = path or self.path, time.monotonic() + READING_SECONDS
        while path.exists():
            if not path.is_file():
                raise UserError(f"{path} is not a file; remove it, a run keeps its lock there")
            try:
                return Owner.read(path)
            except FileNotFoundError:
                return None
            except DamagedFile:
                if time.monotonic() > end:
                    return None
                time.sleep(READING_SECONDS / 10)
        return None

    def _in_use(self, owner: Owner) -> str:
        process = owner.process
        line = f"{self.run_dir} is in use by process {process.pid} on host {process.host}, since {owner.since}"
        if owner.runs():
            return f"{line}. Wait for its end or stop it (kill {process.pid}), or choose another --exp_name"
        return (
            f"{line}; whether it still runs cannot be told from here ({os.uname().nodename}). If it does, choose "
            f"another --exp_name; if it has ended, delete {self.path} and start again"
        )


def _slurm_job(environment: Mapping[str, str]) -> tuple[str, int] | None:
    count = environment.get("SLURM_RESTART_COUNT", "0")
    if "SLURM_JOB_ID" not in environment or not count.isdecimal():
        return None
    return environment["SLURM_JOB_ID"], int(count)


# --- an earlier run ---------------------------------------------------------------------------------------------------


def move_earlier_run(config: TrainingConfig, world: World) -> None:
    """Rename the directory of an earlier run that this launch would overwrite; the main rank does it and prints where.

    Raises `UserError` on all processes where it cannot be renamed, or holds what this launch reads.
    """
    problem = None
    if world.is_main and _starts_afresh(config):
        try:
            moved = _move_aside(config)
            print(f"starting a new run in {config.run_dir}; the earlier run is kept in {moved}")
        except UserError as error:
            problem = str(error)
    problem = world.broadcast(problem)
    if problem is not None:
        raise UserError(problem)


def _starts_afresh(config: TrainingConfig) -> bool:
    """Whether there is an earlier run that is not resumed."""
    run_dir = config.run_dir
    if config.eval_only or not run_dir.is_dir():
        return False
    holds = [name for name in (LATEST, BEST) if candidates_in(run_dir / name)]
    if config.resume:
        return bool(holds) and not Path(config.resume).resolve().is_relative_to(run_dir.resolve())
    if not config.auto_resume:
        return bool(holds) or any((run_dir / name).exists() for name in (SCORES, METRICS_FILE))
    # With --save_ckpt the best alone is not resumed, and a new best would replace it.
    return bool(holds) and not set(holds) & set(resumed_from(config))


def _move_aside(config: TrainingConfig) -> Path:
    """Rename the run to the first free number; returns the new path."""
    place = config.run_dir.resolve()
    for name in READ:
        path = getattr(config, name)
        if path and Path(path).exists() and Path(path).resolve().is_relative_to(place):
            raise UserError(
                f"--{name} {path} lies in {config.run_dir}, which a new run moves aside; take another --exp_name"
            )
    try:
        moved = move_aside(place)
    except OSError as error:
        raise UserError(
            f"{config.run_dir} contains an earlier run and cannot be renamed ({error.strerror}); take another "
            "--exp_name"
        ) from error
    if config.run_dir.is_symlink():
        place.mkdir()  # or the link would lead nowhere
    return moved


# --- the beginning ---------------------------------------------------------------------------------------------------


def begin_launch(config: TrainingConfig, output: OutputLog, world: World) -> RunLock:
    """Lock the run, give all processes the log of this launch, and record on the main one what it was told and what
    code it runs. Returns the lock, which is held until the process ends."""
    run_dir = config.log_dir
    lock = RunLock(run_dir)
    lock.acquire(world)
    move_earlier_run(config, world)
    command = shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
    number = keep_log(output, run_dir, world, command=command)
    if not world.is_main:
        return lock
    write_text(run_dir / "config.yaml", settings_text(config, number, world.size))
    if config.memo:
        add_memo(run_dir, number, config.memo)
    for problem in damaged_launches(run_dir):
        print(f"skipped: {problem}", file=sys.stderr)
    earlier = earlier_manifests(run_dir, number)
    manifest = record_launch(run_dir, number, ROOT, command=command, settings=config.to_dict(), world_size=world.size)
    lines = [*_describe(run_dir, number, manifest, earlier), *describe_flags(config, width=output.width)]
    print(wrapped("\n".join(lines), output.width))
    return lock


def _describe(run_dir: Path, number: int, manifest: dict, earlier: list[dict]) -> list[str]:
    code = f"{len(manifest['files'])} files in {run_dir}/meta/meta_{number}"
    if earlier:
        changed = changes(manifest, earlier[-1])
        counts = ", ".join(f"{len(paths)} {change}" for change, paths in changed.items() if paths)
        code += f"; since launch {earlier[-1]['launch']}: {counts or 'no change'}"
    return [
        f"launch {number}, logged in {run_dir}/meta/meta_{number}.log",
        *describe_surroundings(manifest),
        f"  code      {code}",
    ]
