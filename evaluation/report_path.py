"""Where the report of an evaluation goes: `<runs>/<run>/eval/<name>.json`."""

import hashlib
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError

LONGEST_NAME = 100
MARKS_OF_A_RUN = ("metrics.jsonl", "ckpt_model", "meta")


def report_path(flags: Namespace, specs: Sequence[str]) -> Path:
    """The JSON file, from the flags `output`, or `log_base_dir`, `exp_name`, `name`, `version` and `predictions`."""
    if flags.output:
        if flags.output.is_dir():
            raise UserError(f"{flags.output} is a directory; name a file in it")
        if flags.output.suffix != ".json":
            raise UserError(f"--output {flags.output}: name a .json file; its tables and rows get the same name")
        return flags.output
    source = flags.version or flags.predictions
    if flags.exp_name:  # the reference's recipes name it "<run>/eval" when they evaluate
        run = _safe("--exp_name", flags.exp_name.removesuffix("/eval"))
    else:
        run = run_of(Path(source), Path(flags.log_base_dir))
    name = _safe("--name", flags.name or report_name(flags, specs))
    return Path(flags.log_base_dir) / run / "eval" / f"{name}.json"


def run_of(version: Path, runs: Path) -> str:
    """The run that a checkpoint below `runs` belongs to, from there; elsewhere the name of its file or directory."""
    path, runs = version.resolve(), runs.resolve()
    if not path.is_relative_to(runs) or path == runs:
        return path.stem if path.is_file() else path.name
    below = path.relative_to(runs)
    for parent in [below, *below.parents][:-1]:
        if any((runs / parent / mark).exists() for mark in MARKS_OF_A_RUN):
            return parent.as_posix()
    return below.parts[0]


def report_name(flags: Namespace, specs: Sequence[str]) -> str:
    """Splits and protocol in characters that a file name may have: `ReasonSeg_val.generated`."""
    splits = "+".join(re.sub(r"[^\w+.-]", "_", spec) for spec in specs)
    if len(splits) > LONGEST_NAME:
        digest = hashlib.sha256("||".join(specs).encode()).hexdigest()[:8]
        splits = f"{len(specs)}_splits-{digest}"
    limit = None if flags.limit is None else f"first{flags.limit}"
    if flags.predictions:
        parts = [splits, "predicted", limit]
    else:
        layer = None if flags.layer is None else f"layer_{flags.layer}"
        parts = [splits, flags.answer, flags.expressions, layer, limit]
    return ".".join(part for part in parts if part)


def _safe(flag: str, name: str) -> str:
    """A name of a file or directory, and nothing that leads elsewhere."""
    if name in ("", ".", "..") or re.search(r"[/\\\0]", name) or name.startswith("."):
        raise UserError(f"{flag} {name!r} is not the name of a file or directory")
    return name
