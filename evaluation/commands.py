"""What `eval.py` does: a checkpoint or saved predictions scored on every split, all that is written of it, and two
reports compared."""

import atexit
import datetime
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from evaluation.menu import choose_benchmarks
from evaluation.progress import ScoreBar
from evaluation.questions import ANSWERS, EXPLAIN, Protocol
from evaluation.records import PartialResults, fingerprint, lock_report, weights_hash
from evaluation.report_path import report_path
from evaluation.running import Effort, Outcome, evaluate
from groundscore.annotations.bad_entries import Tolerance, describe_bad_samples
from groundscore.errors import UserError
from groundscore.exchange.counting import count_predictions
from groundscore.exchange.jsonl import write_predictions
from groundscore.scoring.counts import mask_iou
from groundscore.scoring.report import Report, ReportFiles, refuse_foreign_report
from groundscore.scoring.tables import entries_of
from groundscore.splits import EvaluationItem, OpenSplit, evaluation_sets, spread_items
from groundscore.splits.wording import worded
from groundscore.writing import make_directory
from inference.model_flags import load_flagged_model
from inference.session import ChatSession
from model.grounding import GroundingModel
from utils.contact_sheet import SheetRow, contact_sheet, refuse_foreign_image, save_sheet
from utils.distributed import World, adopt_slurm, choose_device

PACKAGES = ("torch", "transformers", "numpy")

Sets = Mapping[str, Sequence[EvaluationItem]]


@dataclass
class _Task:
    """What the flags ask for, checked: splits by spec, which entries may be left out, the report's files."""

    flags: Namespace
    argv: Sequence[str]
    sets: Sets
    tolerance: Tolerance
    files: ReportFiles

    @classmethod
    def of(cls, flags: Namespace, argv: Sequence[str]) -> "_Task":
        """Opens the splits and finds everything that can be wrong before a model is loaded."""
        tolerance = Tolerance(flags.skip_bad_samples)
        sets = evaluation_sets(flags.val_dataset, flags.dataset_dir, tolerance)
        for spec, items in sets.items():
            if len(items) == 0:
                raise UserError(f"{spec}: the split below {flags.dataset_dir} contains no images")
        files = ReportFiles(report_path(flags, list(sets)))
        refuse_foreign_report(files.report)
        if flags.sheet:
            refuse_foreign_image(flags.sheet)
        for path in filter(None, (files.report, flags.sheet)):
            make_directory(path.parent)
        return cls(flags, argv, sets, tolerance, files)

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
            "command": ["eval.py", *self.argv],
            "versions": {name: metadata.version(name) for name in PACKAGES},
        }
        selected_on = flags.selected_on or (_selected_on(flags.version) if flags.version else None)
        return Report(
            header | beside, flags.answer == "both", flags.gres_reference, flags.bootstrap, selected_on=selected_on
        )

    def write(self, report: Report, step: int) -> None:
        """Writes and prints everything but answered samples; step: of the TensorBoard points."""
        if self.flags.gallery:
            report.write_gallery(self.files, self.sets)
            print(f"gallery: {self.files.gallery}")
        if not self.flags.output:
            _write_points(self.files.report.parent / "tensorboard", report, step)
        table = report.table(EXPLAIN)
        print(table)
        report.write(self.files, table)
        print(f"report: {self.files.report}")
        if told := describe_bad_samples(self.files.bad_samples):
            print(f"bad samples: {told}")


# --- a checkpoint -----------------------------------------------------------------------------------------------------


def score(flags: Namespace, argv: Sequence[str]) -> int:
    """Scores saved predictions or a checkpoint; returns 1 where a split could not be scored, else 0."""
    if not flags.version and not flags.predictions:
        raise UserError("--version is missing: the checkpoint to score (or --predictions, or --compare)")
    if not Path(flags.dataset_dir).is_dir():
        raise UserError(f"--dataset_dir {flags.dataset_dir}: no such directory")
    return evaluate_predictions(flags, argv) if flags.predictions else evaluate_checkpoint(flags, argv)


def evaluate_checkpoint(flags: Namespace, argv: Sequence[str]) -> int:
    """Evaluates the checkpoint that `flags` name; returns 1 where a split could not be scored, else 0."""
    if flags.sheet and flags.sheet.is_dir():
        raise UserError(f"{flags.sheet} is a directory; name a file in it")
    adopt_slurm()
    flags.val_dataset = flags.val_dataset or _ask_for_benchmarks()
    task = _Task.of(flags, argv)
    if flags.vis:
        make_directory(flags.vis_save_path)
    world = _join_processes(flags)
    with lock_report(task.files.report, world):
        return _evaluate_all(task, world)


def _evaluate_all(task: _Task, world: World) -> int:
    flags = task.flags
    model, processor = load_flagged_model(flags, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    weights = weights_hash(model) if world.is_main else None
    report = task.new_report(checkpoint=_describe_checkpoint(flags, model, weights))
    workers = flags.workers
    if workers is None:
        workers = 4 if model.device.type == "cuda" else 0
    outcomes: list[Outcome] = []
    partials: list[PartialResults] = []
    for spec, items in task.sets.items():
        for answer in ANSWERS if flags.answer == "both" else [flags.answer]:
            protocol = Protocol(answer, flags.expressions, flags.layer, flags.max_new_tokens, flags.limit)
            partial = _partial_results(task, world, weights, spec, len(items), protocol)
            try:
                outcome = evaluate(
                    model,
                    processor,
                    spec,
                    flags.dataset_dir,
                    protocol,
                    items=items,
                    effort=Effort(flags.val_batch_size, flags.val_expressions, workers),
                    tolerance=task.tolerance,
                    keep_predictions=flags.save_predictions or flags.gallery,
                    partial=partial,
                    progress=ScoreBar(f"{spec} {answer}") if world.is_main else None,
                )
            except UserError as error:
                if len(task.sets) == 1:
                    raise
                report.add_failure(spec, protocol.to_dict(), str(error))
                continue  # what was finished stays
            partials.append(partial)
            if world.is_main:
                outcomes.append(outcome)
                layers = {str(layer): times for layer, times in outcome.layers.items()}
                beside = {"silent": outcome.silent, "layers": layers, "seconds": round(outcome.seconds, 3)}
                report.add(spec, protocol.to_dict(), outcome, **beside)
    if world.is_main:
        if flags.save_predictions:
            _save_predictions(task.files, outcomes, nested=report.nested)
        task.write(report, _trained_steps(flags.version))
        for partial in partials:
            partial.remove()
        if flags.sheet or flags.vis:
            session = ChatSession(model, processor, layer=flags.layer, max_new_tokens=flags.max_new_tokens)
            _draw_samples(task, session)
    return int(report.failed)


def _partial_results(
    task: _Task, world: World, weights: str | None, spec: str, images: int, protocol: Protocol
) -> PartialResults:
    """Where the finished images of a split are kept. A limit is no part of it: a longer run goes on from a shorter."""
    flags, asked = task.flags, protocol.to_dict() | {"limit": None}
    keeps = flags.save_predictions or flags.gallery
    own = fingerprint(weights, asked, spec, images, str(Path(flags.dataset_dir).resolve()), keeps)
    directory = task.files.report.parent / ".partial"
    return PartialResults(directory, world.broadcast(own), key=fingerprint(spec, protocol.answer)[:8])


def _describe_checkpoint(flags: Namespace, model: GroundingModel, weights: str | None) -> dict[str, Any]:
    """What a report says of the checkpoint; weights: their hash."""
    return {
        "version": str(flags.version),
        "weight": flags.weight,
        "system": model.config.system,
        "dtype": str(model.dtype).removeprefix("torch."),
        "bits": 8 if flags.load_in_8bit else 4 if flags.load_in_4bit else None,
        "device": model.device.type,
        "sha256": weights,
    }


def _selected_on(version: str) -> str | None:
    """The split that a run chose its best checkpoint by, where that is what is scored; None for anything else."""
    from checkpoints.runs import is_run, resolve_checkpoint, selected_on

    return selected_on(resolve_checkpoint(Path(version))) if is_run(Path(version)) else None


def _trained_steps(version: str) -> int:
    """The optimizer steps behind a training checkpoint, the x of its points; 0 for anything else."""
    from checkpoints.runs import is_run, read_position, resolve_checkpoint

    if not is_run(Path(version)):
        return 0
    return read_position(resolve_checkpoint(Path(version))).step


def _ask_for_benchmarks() -> str:
    """What the menu gives on a terminal; the reference's default elsewhere."""
    if not sys.stdin.isatty():
        return "ReasonSeg|val"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("several processes have no menu; name the splits with --val_dataset")
    return choose_benchmarks()


def _join_processes(flags: Namespace) -> World:
    """Starts talking to the other processes where a launcher has started several.

    One that cannot score an image waits for the others, who first finish their shares: hours, perhaps.
    """
    device = choose_device(flags.device, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=7))
        atexit.register(torch.distributed.destroy_process_group)
    return World.joined(device)


# --- saved predictions, reports ---------------------------------------------------------------------------------------


def evaluate_predictions(flags: Namespace, argv: Sequence[str]) -> int:
    """Scores the file that `flags.predictions` names and writes the same report as for a checkpoint."""
    if not flags.val_dataset:
        raise UserError("--predictions needs --val_dataset: the splits to score, joined by ||")
    for name in ("save_predictions", "sheet", "vis"):
        if getattr(flags, name):
            raise UserError(f"--{name} needs a checkpoint and does not work with --predictions; use --gallery")
    task = _Task.of(flags, argv)
    with lock_report(task.files.report, World.joined(torch.device("cpu"))):
        bars = {spec: ScoreBar(spec) for spec in task.sets}
        root = Path(flags.dataset_dir)
        scorers = count_predictions(
            flags.predictions,
            {spec: OpenSplit(spec, root, items, task.tolerance, flags.limit) for spec, items in task.sets.items()},
            keep_masks=flags.gallery,
            progress=lambda spec, done, total: bars[spec](done, total, None, None),
        )
        protocol = {"answer": "predicted", "expressions": None}
        report = task.new_report(
            protocol=protocol | {"gres_reference": flags.gres_reference, "limit": flags.limit},
            predictions={"file": str(flags.predictions)},
        )
        report.nested = False
        for spec, scorer in scorers.items():
            report.add(spec, protocol, scorer.counts())
        task.write(report, 0)
    return 0


def _save_predictions(files: ReportFiles, outcomes: Sequence[Outcome], *, nested: bool) -> None:
    """Writes one file of predictions for each answer."""
    for answer in dict.fromkeys(outcome.protocol.answer for outcome in outcomes):
        path = files.predictions(answer if nested else None)
        chosen = [outcome for outcome in outcomes if outcome.protocol.answer == answer]
        write_predictions(path, (line for outcome in chosen for line in outcome.predictions))
        print(f"predictions: {path}")


def _write_points(directory: Path, report: Report, step: int) -> None:
    """Writes TensorBoard points at `step`, `<split>/<answer>/<score>`: no split overwrites another."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(directory)) as writer:
        for split, scores in entries_of(report.splits, report.nested):
            for name, value in scores.items():
                if isinstance(value, float) and name != "seconds":
                    tag = f"{split.replace('|', '_')}/{scores['protocol']['answer']}/{name}"
                    writer.add_scalar(tag, value, step)


# --- answered samples -------------------------------------------------------------------------------------------------


def _draw_samples(task: _Task, session: ChatSession) -> None:
    """Draws the contact sheet and the single samples that the flags ask for."""
    flags, sets = task.flags, task.sets
    if flags.sheet:
        rows = []
        for number, (split, items) in enumerate(sets.items()):
            share = flags.sheet_samples // len(sets) + (number < flags.sheet_samples % len(sets))
            rows += _sample_rows(session, split, items, share, task.tolerance)
        save_sheet(contact_sheet(rows), flags.sheet)
        print(f"contact sheet: {flags.sheet}")
    for split, items in sets.items() if flags.vis else ():
        directory = flags.vis_save_path / split.replace("|", "_")
        directory.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(_sample_rows(session, split, items, flags.vis, task.tolerance), start=1):
            save_sheet(contact_sheet([row]), directory / f"{number:04d}.png")
        print(f"images: {directory}")


def expression_to_show(exists: Sequence[bool], number: int) -> int:
    """The index of the expression that sample `number` shows: a no-target one in every other sample that has any."""
    if number % 2 and False in exists:
        return exists.index(False)
    return number % len(exists)


def _sample_rows(
    session: ChatSession, spec: str, items: Sequence[EvaluationItem], count: int, tolerance: Tolerance
) -> list[SheetRow]:
    """`count` expressions, spread evenly over the split, answered by the model and laid out for a contact sheet."""
    rows = []
    for number, item in enumerate(spread_items(items, count, tolerance)):
        prompts = worded(item).prompts
        which = expression_to_show(item.exists, number)
        reply = session.ask(item.image, (), prompts[which])
        truth = item.masks[which] != 0
        rows.append(
            SheetRow(
                image=item.image,
                masks=reply.masks,
                question=prompts[which].strip(),
                answer=reply.text,
                truth=truth,
                ignore=item.ignore,
                similarity=None if reply.maps is None or not len(reply.maps) else reply.maps[0],
                layer=reply.layers[0] if reply.layers else None,
                label=spec,
                iou=mask_iou(reply.masks.any(0), truth, item.ignore),
            )
        )
    return rows
