"""The report of an evaluation, of a model or of saved predictions: where it goes, `<runs>/<run>/eval/<name>.json`, that
one evaluation at a time writes it, and all that is written. Without torch."""

import hashlib
import io
import re
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.questions import EXPLAIN
from groundscore.annotations.bad_entries import Tolerance, describe_bad_samples
from groundscore.errors import UserError
from groundscore.scoring.report import Report, ReportFiles, place_for_report, versions_of
from groundscore.scoring.tables import entries_of
from groundscore.splits import EvaluationItem, evaluation_sets
from groundscore.terminal import fitted, terminal_width
from groundscore.writing import make_directory, open_locked
from utils.contact_sheet import refuse_foreign_image

PACKAGES = ("torch", "transformers", "numpy")
LONGEST_NAME = 100
MARKS_OF_A_RUN = ("metrics.jsonl", "ckpt_model", "meta")

Sets = Mapping[str, Sequence[EvaluationItem]]


@dataclass
class Task:
    """What the flags ask for, checked: splits by spec, which entries may be left out, the report's files.

    program, argv: the command, as reports tell it.
    """

    flags: Namespace
    argv: Sequence[str]
    sets: Sets
    tolerance: Tolerance
    files: ReportFiles
    program: tuple[str, ...] = ("eval.py",)

    @classmethod
    def of(cls, flags: Namespace, argv: Sequence[str], program: Sequence[str] = ("eval.py",)) -> "Task":
        """Opens the splits and finds everything that can be wrong before a model is loaded."""
        tolerance = Tolerance(flags.skip_bad_samples)
        sets = evaluation_sets(flags.val_dataset, flags.dataset_dir, tolerance)
        for spec, items in sets.items():
            if len(items) == 0:
                raise UserError(f"{spec}: the split below {flags.dataset_dir} contains no images")
        files = place_for_report(report_path(flags, list(sets)))
        if flags.sheet:
            refuse_foreign_image(flags.sheet)
            make_directory(flags.sheet.parent)
        return cls(flags, argv, sets, tolerance, files, tuple(program))

    def new_report(self, **beside: Any) -> Report:
        """An empty report; `beside` joins what every report says: how it was counted, data, command and versions."""
        flags = self.flags
        protocol = {
            "answer": flags.answer,
            "expressions": flags.expressions or "together where the answer is given, single where it is generated",
            "gres_reference": flags.gres_reference,
            "layer": "checkpoint" if flags.layer is None else str(flags.layer),
            "max_new_tokens": flags.max_new_tokens,
            "limit": flags.limit,
        }
        header = {
            "protocol": protocol,
            "dataset_dir": str(flags.dataset_dir),
            "command": [*self.program, *self.argv],
            "versions": versions_of(PACKAGES),
        }
        return Report(
            header | beside,
            flags.answer == "both",
            flags.gres_reference,
            flags.bootstrap,
            selected_on=flags.selected_on,
            unit=flags.unit,
        )

    @property
    def curves(self) -> Path | None:
        """Where TensorBoard points and images go: into the run, None where `--output` leads to none."""
        folder = self.files.report.parent
        if not self.flags.output:
            return folder / "tensorboard"
        return folder / "eval" / "tensorboard" if is_run_folder(folder) else None

    def write(self, report: Report, step: int) -> None:
        """Writes and prints everything but answered samples; step: of the TensorBoard points."""
        if self.flags.gallery:
            report.write_gallery(self.files.gallery, self.sets)
            print(f"gallery: {self.files.gallery}")
        if self.curves:
            write_points(self.curves, report, step)
        table = report.table(EXPLAIN)
        print(fitted(table, terminal_width()))
        report.write(self.files, table)
        print(f"report: {self.files.report}")
        if told := describe_bad_samples(self.files.bad_samples):
            print(f"bad samples: {told}")


def write_points(directory: Path, report: Report, step: int) -> None:
    """Writes TensorBoard points at `step`, `eval/<split>/<answer>/<score>`: no split overwrites another.

    Where TensorBoard is not installed, as saved predictions do not need it, there are none.
    """
    tags = {
        f"eval/{tag_of_split(split)}/{scores['protocol']['answer']}/{name}": value
        for split, scores in entries_of(report.splits, report.nested)
        for name, value in scores.items()
        if isinstance(value, float) and name != "seconds"
    }
    _write_events(directory, step, [{"tag": tag, "simple_value": value} for tag, value in tags.items()])


def write_cards(directory: Path, split: str, cards: Iterable[Image.Image], step: int) -> None:
    """Writes images to TensorBoard at `step`, `eval/<split>/picture_<number>`; see `write_points`."""
    values = []
    for number, card in enumerate(cards, start=1):
        buffer = io.BytesIO()
        card.save(buffer, format="PNG")
        shown = {"width": card.width, "height": card.height, "colorspace": 3, "encoded_image_string": buffer.getvalue()}
        values.append({"tag": f"eval/{tag_of_split(split)}/picture_{number}", "image": shown})
    _write_events(directory, step, values)


def tag_of_split(split: str) -> str:
    """A split as TensorBoard's tags and the names of folders have it."""
    return split.replace("|", "_")


def _write_events(directory: Path, step: int, values: Sequence[Mapping[str, Any]]) -> None:
    """values: the fields of each TensorBoard summary value."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        return

    writer = EventFileWriter(str(directory))
    try:
        for fields in values:
            fields = fields | ({"image": Summary.Image(**fields["image"])} if "image" in fields else {})
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(**fields)]))
            writer.add_event(event)
    finally:
        writer.close()


# --- where it goes ----------------------------------------------------------------------------------------------------


def report_path(flags: Namespace, specs: Sequence[str]) -> Path:
    """The JSON file, from the flags `output`, or `log_base_dir`, `exp_name`, `name`, `version` and `predictions`."""
    if flags.output:
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
        if is_run_folder(runs / parent):
            return parent.as_posix()
    return below.parts[0]


def is_run_folder(folder: Path) -> bool:
    """Whether a training run has left its files in a folder."""
    return any((folder / mark).exists() for mark in MARKS_OF_A_RUN)


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


@contextmanager
def locked_report(report: Path) -> Iterator[None]:
    """Inside the `with` block no other evaluation writes the report; raises `UserError` if one does."""
    try:
        lock = open_locked(report.with_name(f".{report.name}.lock"))
    except OSError as error:
        raise UserError(
            f"{report.parent} cannot be written ({error.strerror}); --output FILE.json names another folder"
        ) from error
    if lock is None:
        raise UserError(f"another evaluation is writing {report}; wait for its end, or give this one a --name")
    try:
        yield
    finally:
        Path(lock.name).unlink(missing_ok=True)
        lock.close()
