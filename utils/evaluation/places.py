"""Where the results of an evaluation go: `<runs>/<run>/eval/<name>.json` and files beside it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

LONGEST_NAME = 100


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
    run = flags.exp_name or run_of(Path(source), Path(flags.log_base_dir))
    # The reference's recipes name the run "<run>/eval" when they evaluate.
    run = _safe("--exp_name", run.removesuffix("/eval"))
    name = _safe("--name", flags.name or name_of(flags, specs))
    directory = Path(flags.log_base_dir) / run / "eval"
    return Places(directory / f"{name}.json", directory / "tensorboard")


def run_of(version: Path, runs: Path) -> str:
    """The run that a checkpoint below `runs` belongs to; elsewhere the name of its own file or directory."""
    path = version.resolve()
    if path.is_relative_to(runs.resolve()) and path != runs.resolve():
        return path.relative_to(runs.resolve()).parts[0]
    return path.stem if path.is_file() else path.name


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
