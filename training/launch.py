"""The beginning of a launch: its lock, its log, its settings, what code it runs, and the note on it."""

import sys
from pathlib import Path

from groundscore.writing import write_text
from training.config import TrainingConfig
from training.config_files import settings_text
from training.earlier_run import move_earlier_run
from training.run_lock import RunLock
from training.summaries import describe_command, describe_flags
from utils.distributed import World
from utils.logging import OutputLog, add_memo, keep_log
from utils.tracking.history import changes, damaged_launches, describe_surroundings, earlier_manifests
from utils.tracking.snapshot import record_launch

ROOT = Path(__file__).parents[1]


def begin_launch(config: TrainingConfig, output: OutputLog, world: World) -> RunLock:
    """Lock the run, give all processes the log of this launch, and record on the main one what it was told and what
    code it runs. Returns the lock, which is held until the process ends."""
    run_dir = config.log_dir
    lock = RunLock(run_dir)
    lock.acquire(world)
    move_earlier_run(config, world)
    command = describe_command([Path(sys.executable).name, *sys.orig_argv[1:]])
    number = keep_log(output, run_dir, world, command=command)
    if not world.is_main:
        return lock
    write_text(run_dir / "config.yaml", settings_text(config, number))
    if config.memo:
        add_memo(run_dir, number, config.memo)
    for problem in damaged_launches(run_dir):
        print(f"passed over: {problem}", file=sys.stderr)
    earlier = earlier_manifests(run_dir, number)
    manifest = record_launch(run_dir, number, ROOT, command=command, settings=config.to_dict(), world_size=world.size)
    print("\n".join([*_describe(run_dir, number, manifest, earlier), *describe_flags(config)]))
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
