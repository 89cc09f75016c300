"""What `eval.py` does with a checkpoint: it is scored on every split, and samples of what it answers are drawn."""

import atexit
import datetime
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from evaluation.menu import choose_benchmarks
from evaluation.progress import ScoreBar
from evaluation.questions import ANSWERS, Protocol
from evaluation.records import PartialResults, fingerprint, lock_report, weights_hash
from evaluation.report_files import Task, tag_of_split, write_cards
from evaluation.running import Effort, Outcome, evaluate
from groundscore.annotations.bad_entries import Tolerance
from groundscore.errors import UserError
from groundscore.exchange.jsonl import write_predictions
from groundscore.scoring.counts import mask_iou
from groundscore.scoring.report import ReportFiles
from groundscore.splits import EvaluationItem, spread_items
from groundscore.splits.wording import worded
from groundscore.writing import make_directory
from inference.model_flags import load_flagged_model
from inference.session import ChatSession
from model.grounding import GroundingModel
from utils.contact_sheet import SheetRow, contact_sheet, sample_card, save_sheet
from utils.distributed import World, adopt_slurm, choose_device


def evaluate_checkpoint(flags: Namespace, argv: Sequence[str]) -> int:
    """Evaluates the checkpoint that `flags` name; returns 1 where a split could not be scored, else 0."""
    if flags.sheet and flags.sheet.is_dir():
        raise UserError(f"{flags.sheet} is a directory; name a file in it")
    adopt_slurm()
    flags.val_dataset = flags.val_dataset or ask_for_benchmarks()
    task = Task.of(flags, argv)
    if flags.vis:
        make_directory(flags.vis_save_path)
    world = join_processes(flags)
    with lock_report(task.files.report, world):
        return _evaluate_all(task, world)


def _evaluate_all(task: Task, world: World) -> int:
    flags = task.flags
    model, processor = load_flagged_model(flags, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    weights = weights_hash(model) if world.is_main else None
    flags.selected_on = flags.selected_on or selected_on(flags.version)
    report = task.new_report(checkpoint=describe_checkpoint(flags, model, weights))
    effort = effort_of(flags, model)
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
                    effort=effort,
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
        step = _trained_steps(flags.version)
        task.write(report, step)
        for partial in partials:
            partial.remove()
        if flags.sheet or flags.vis:
            session = ChatSession(model, processor, layer=flags.layer, max_new_tokens=flags.max_new_tokens)
            _draw_samples(task, session, step)
    return int(report.failed)


def effort_of(flags: Namespace, model: GroundingModel) -> Effort:
    """How an evaluation is run, by the flags of `add_speed_flags` and the model's device."""
    workers = flags.workers
    if workers is None:
        workers = 4 if model.device.type == "cuda" else 0
    return Effort(flags.val_batch_size, flags.val_expressions, workers)


def _partial_results(
    task: Task, world: World, weights: str | None, spec: str, images: int, protocol: Protocol
) -> PartialResults:
    """Where the finished images of a split are kept. A limit is no part of it: a longer run goes on from a shorter."""
    flags, asked = task.flags, protocol.to_dict() | {"limit": None}
    keeps = flags.save_predictions or flags.gallery
    own = fingerprint(weights, asked, spec, images, str(Path(flags.dataset_dir).resolve()), keeps)
    directory = task.files.report.parent / ".partial"
    return PartialResults(directory, world.broadcast(own), key=fingerprint(spec, protocol.answer)[:8])


def describe_checkpoint(flags: Namespace, model: GroundingModel, weights: str | None) -> dict[str, Any]:
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


def selected_on(version: str) -> str | None:
    """The split that a run chose its best checkpoint by, where that is what is scored, or that a merged model's card
    has first; None for anything else."""
    from checkpoints import runs
    from checkpoints.card import split_of_card
    from checkpoints.files import CARD_FILE

    path = Path(version)
    if runs.is_run(path):
        return runs.selected_on(runs.resolve_checkpoint(path))
    card = path / CARD_FILE
    return split_of_card(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None


def _trained_steps(version: str) -> int:
    """The optimizer steps behind a training checkpoint, the x of its points; 0 for anything else."""
    from checkpoints.runs import is_run, read_position, resolve_checkpoint

    if not is_run(Path(version)):
        return 0
    return read_position(resolve_checkpoint(Path(version))).step


def ask_for_benchmarks() -> str:
    """What the menu gives on a terminal; the reference's default elsewhere."""
    if not sys.stdin.isatty():
        return "ReasonSeg|val"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("several processes have no menu; name the splits with --val_dataset")
    return choose_benchmarks()


def join_processes(flags: Namespace) -> World:
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


# --- its predictions --------------------------------------------------------------------------------------------------


def _save_predictions(files: ReportFiles, outcomes: Sequence[Outcome], *, nested: bool) -> None:
    """Writes one file of predictions for each answer."""
    for answer in dict.fromkeys(outcome.protocol.answer for outcome in outcomes):
        path = files.predictions(answer if nested else None)
        chosen = [outcome for outcome in outcomes if outcome.protocol.answer == answer]
        write_predictions(path, (line for outcome in chosen for line in outcome.predictions))
        print(f"predictions: {path}")


# --- answered samples -------------------------------------------------------------------------------------------------


def _draw_samples(task: Task, session: ChatSession, step: int) -> None:
    """Draws the contact sheet, with its samples in TensorBoard, too, and the single samples that the flags ask for."""
    flags, sets = task.flags, task.sets
    if flags.sheet:
        rows = []
        for number, (split, items) in enumerate(sets.items()):
            share = flags.sheet_samples // len(sets) + (number < flags.sheet_samples % len(sets))
            of_split = _sample_rows(session, split, items, share, task.tolerance)
            if task.curves:
                write_cards(task.curves, split, map(sample_card, of_split), step)
            rows += of_split
        save_sheet(contact_sheet(rows), flags.sheet)
        print(f"contact sheet: {flags.sheet}")
    for split, items in sets.items() if flags.vis else ():
        directory = flags.vis_save_path / tag_of_split(split)
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
