"""Where the results of an evaluation go: `<runs>/<run>/eval/<name>.json` and files beside it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from groundscore.errors import UserError

LONGEST_NAME = 100
MARKS_OF_A_RUN = ("metrics.jsonl", "ckpt_model", "meta")


@dataclass(frozen=True)
class Places:
    """report: the JSON file; every other result lies beside it under the same name.

    tensorboard: directory of points, None where the report was given a place of its own.
    """

    report: Path
    tensorboard: Path | None

    @property
    def table(self) -> Path:
        return self.report.with_suffix(".md")

    def predictions(self, answer: str | None = None) -> Path:
        """answer: the protocol, where a report has several."""
        return self.report.with_suffix(f".{answer}.predictions.jsonl" if answer else ".predictions.jsonl")

    @property
    def bad_samples(self) -> Path:
        """What was left out or repaired; there is none where nothing was."""
        return self.report.with_suffix(".bad_samples.jsonl")

    @property
    def gallery(self) -> Path:
        return self.report.with_suffix(".html")

    @property
    def partial(self) -> Path:
        """A directory, shared by all evaluations that write here."""
        return self.report.parent / ".partial"


def choose_places(flags, specs: list[str]) -> Places:
    """Places from the flags `output`, or `log_base_dir`, `exp_name`, `name`, `version` and `predictions`."""
    if flags.output:
        if flags.output.is_dir():
            raise UserError(f"{flags.output} is a directory; name a file in it")
        if flags.output.suffix != ".json":
            raise UserError(f"--output {flags.output}: name a .json file; tables and rows lie beside it, named alike")
        return Places(flags.output, None)
    source = flags.version or flags.predictions
    if flags.exp_name:  # the reference's recipes name it "<run>/eval" when they evaluate
        run = _safe("--exp_name", flags.exp_name.removesuffix("/eval"))
    else:
        run = run_of(Path(source), Path(flags.log_base_dir))
    name = _safe("--name", flags.name or name_of(flags, specs))
    directory = Path(flags.log_base_dir) / run / "eval"
    return Places(directory / f"{name}.json", directory / "tensorboard")


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


def name_of(flags, specs: list[str]) -> str:
    """Splits and protocol in the letters of a file name: `ReasonSeg_val.generated`."""
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
