"""What code and flags did a launch have, what changed since, and how do I get it back?

python -m utils.tracking show                      the launches of the newest run
python -m utils.tracking show 3 --run runs/exp     one launch, with all flags and packages
python -m utils.tracking diff 2 3                  flags, packages and code that changed
python -m utils.tracking restore 2 --to old        the code of launch 2 into a new folder
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from groundscore.errors import UserError, printable, run_main
from groundscore.flags import PageHelp
from utils.logging import META
from utils.tracking.history import describe, difference, earlier_manifests, launches, read_manifest, restore


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m utils.tracking`."""
    parser = argparse.ArgumentParser(prog="python -m utils.tracking", description=__doc__, formatter_class=PageHelp)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--run", type=Path, metavar="DIR", help="the run (default: the newest in runs/)")
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", parents=[common], help="all launches, or one in full")
    show.add_argument("launch", nargs="?", type=int, metavar="N")
    diff = commands.add_parser("diff", parents=[common], help="what changed between two launches")
    diff.add_argument("first", type=int, metavar="A")
    diff.add_argument("second", type=int, metavar="B")
    back = commands.add_parser("restore", parents=[common], help="write the code of a launch into a new folder")
    back.add_argument("launch", type=int, metavar="N")
    back.add_argument("--to", type=Path, metavar="DIR", help="the folder (default: <run>/restored/meta_N)")
    return parser


def main(argv: Sequence[str]) -> None:
    """Show, compare or restore recorded launches."""
    flags = build_parser().parse_args(argv)
    run_dir = flags.run or newest_run(Path("runs"))
    numbers = launches(run_dir)
    if not numbers:
        raise UserError(f"{run_dir}: no launch was recorded there; --run names the directory of a run")
    if flags.command == "show":
        lines = _all_launches(run_dir, numbers) if flags.launch is None else _one_launch(run_dir, flags.launch)
    elif flags.command == "diff":
        lines = list(difference(run_dir, flags.first, flags.second))
        lines = lines or [f"launches {flags.first} and {flags.second} are identical"]
    else:
        target = flags.to or _own_place(run_dir, flags.launch)
        lines = [f"{restore(run_dir, flags.launch, target)} files in {target}"]
    print("\n".join(map(printable, lines)))


def _all_launches(run_dir: Path, numbers: Sequence[int]) -> Iterator[str]:
    """Every launch in a few lines; one that cannot be read is passed over with a word."""
    yield f"{run_dir}: {len(numbers)} launches"
    previous = None
    for number in numbers:
        yield ""
        try:
            manifest = read_manifest(run_dir, number)
        except UserError as problem:
            yield f"launch {number} is skipped: {problem}"
            continue
        yield from describe(manifest, previous)
        previous = manifest


def _one_launch(run_dir: Path, launch: int) -> Iterator[str]:
    """A launch with all its settings and packages."""
    manifest = read_manifest(run_dir, launch)
    earlier = earlier_manifests(run_dir, launch)
    yield from describe(manifest, earlier[-1] if earlier else None)
    for title in ("settings", "packages"):
        yield from ("", title)
        for name, value in manifest[title].items():
            yield f"  {name:<27} {value if title == 'packages' else json.dumps(value)}"


def _own_place(run_dir: Path, launch: int) -> Path:
    """Where the code of a launch goes unless the user names a place: inside the run, wherever that came from."""
    target = run_dir / "restored" / f"meta_{launch}"
    if not target.resolve().is_relative_to(run_dir.resolve()):
        raise UserError(f"{target.parent} is outside the run; choose a new folder with --to")
    return target


def newest_run(directory: Path) -> Path:
    """The run that was launched last."""
    found = list(directory.glob(f"**/{META}/meta_*/manifest.json"))
    if not found:
        raise UserError(f"no run with recorded launches below {directory.absolute()}; --run names one")
    return max(found, key=lambda path: path.stat().st_mtime).parents[2]


if __name__ == "__main__":
    run_main(main)
