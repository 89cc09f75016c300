"""`eval.py` with a checkpoint: every split under every protocol that the flags name, and all that is written of it."""

import atexit
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from evaluation.menu import choose_benchmarks
from evaluation.partial import PartialResults, fingerprint, weights_hash
from evaluation.places import Places, choose_places
from evaluation.progress import ProgressBar
from evaluation.protocol import ANSWERS, Protocol
from evaluation.report_lock import lock_report
from evaluation.results import Results, checkpoint_of, header_of
from evaluation.running import Effort, evaluate, place
from groundscore.annotations.repairs import Tolerance
from groundscore.errors import UserError
from groundscore.scoring.report import refuse_foreign_report
from groundscore.splits import evaluation_sets
from inference.saving import make_directory
from utils.contact_sheet import refuse_foreign_image
from utils.distributed import adopt_slurm, choose_device
from utils.flags import is_training_checkpoint, load_flagged_model


def evaluate_checkpoint(flags, argv: Sequence[str]) -> int:
    """Evaluate what `flags` name and write the results; 1 where a split could not be scored, else 0."""
    _check(flags)
    adopt_slurm()
    tolerance = Tolerance(flags.skip_bad_samples)
    sets = evaluation_sets(flags.val_dataset or _ask_for_benchmarks(), flags.dataset_dir, tolerance)
    for spec, items in sets.items():
        if len(items) == 0:
            raise UserError(f"{spec}: the split below {flags.dataset_dir} holds no images")
    places = choose_places(flags, list(sets))
    refuse_foreign_report(places.report)
    if flags.sheet:
        refuse_foreign_image(flags.sheet)
    for path in filter(None, (places.report, flags.sheet)):
        make_directory(path.parent)
    if flags.vis:
        make_directory(flags.vis_save_path)

    _join_processes(flags)
    with lock_report(places.report):
        return _evaluate_all(flags, argv, sets, places)


def _evaluate_all(flags, argv: Sequence[str], sets: dict, places: Places) -> int:
    tolerance = Tolerance(flags.skip_bad_samples)
    model, processor = load_flagged_model(flags, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    is_main = place()[0] == 0
    weights = weights_hash(model) if is_main else None
    header = header_of(flags, argv) | {"checkpoint": checkpoint_of(flags, model, weights)}
    results = Results(header, flags.answer == "both", flags.gres_reference, flags.bootstrap)
    partials = []
    for spec, items in sets.items():
        for answer in ANSWERS if flags.answer == "both" else [flags.answer]:
            protocol = Protocol(answer, flags.expressions, flags.layer, flags.max_new_tokens, flags.limit)
            partial = _partial(places, weights, flags, spec, len(items), protocol)
            try:
                outcome = evaluate(
                    model,
                    processor,
                    spec,
                    flags.dataset_dir,
                    protocol,
                    items=items,
                    effort=_effort(flags, model.device),
                    tolerance=tolerance,
                    keep_predictions=flags.save_predictions or flags.gallery,
                    partial=partial,
                    progress=ProgressBar(f"{spec} {answer}") if is_main else None,
                )
            except UserError as error:
                if len(sets) == 1:
                    raise
                results.fail(spec, protocol, str(error))
            else:
                partials.append(partial)  # of a split that failed, what was finished stays
                if is_main:
                    results.add(outcome)
    if is_main:
        _write(results, flags, places, sets)
        for partial in partials:
            partial.remove()
        draw(flags, model, processor, sets, tolerance)
    return int(results.failed)


def _write(results: Results, flags, places: Places, sets: dict) -> None:
    if flags.save_predictions:
        results.write_predictions(places)
    if flags.gallery:
        results.write_gallery(places, sets)
    if places.tensorboard:
        results.write_scalars(places.tensorboard, trained_steps(flags.version))
    results.write(places)


def draw(flags, model, processor, sets: dict, tolerance: Tolerance) -> None:
    """The contact sheet and the single pictures that the flags ask for."""
    if not flags.sheet and not flags.vis:
        return
    from evaluation.sheets import sample_rows
    from inference.session import ChatSession
    from utils.contact_sheet import contact_sheet, save_sheet

    session = ChatSession(model, processor, layer=flags.layer, max_new_tokens=flags.max_new_tokens)
    if flags.sheet:
        rows = []
        for number, (split, items) in enumerate(sets.items()):
            share = flags.sheet_samples // len(sets) + (number < flags.sheet_samples % len(sets))
            rows += sample_rows(session, split, items, share, tolerance)
        save_sheet(contact_sheet(rows), flags.sheet)
        print(f"contact sheet: {flags.sheet}")
    for split, items in sets.items() if flags.vis else ():
        directory = flags.vis_save_path / split.replace("|", "_")
        directory.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(sample_rows(session, split, items, flags.vis, tolerance), start=1):
            save_sheet(contact_sheet([row]), directory / f"{number:04d}.png")
        print(f"pictures: {directory}")


def trained_steps(version: str) -> int:
    """The optimizer steps behind a training checkpoint, the x of its points; 0 for anything else."""
    if not is_training_checkpoint(Path(version)):
        return 0
    from checkpoints.runs import read_position, resolve_checkpoint

    return read_position(resolve_checkpoint(Path(version))).step


def _ask_for_benchmarks() -> str:
    """What the menu gives on a terminal; the reference's default elsewhere."""
    if not sys.stdin.isatty():
        return "ReasonSeg|val"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("several processes have no menu; name the splits with --val_dataset")
    return choose_benchmarks()


def _check(flags) -> None:
    """What can be wrong with the flags before anything is opened."""
    if not flags.version:
        raise UserError("--version is missing: the checkpoint to score (or --predictions, or --compare)")
    if not Path(flags.dataset_dir).is_dir():
        raise UserError(f"--dataset_dir {flags.dataset_dir}: no such directory")
    if flags.sheet and flags.sheet.is_dir():
        raise UserError(f"{flags.sheet} is a directory; name a file in it")


def _effort(flags, device: torch.device) -> Effort:
    workers = flags.workers
    if workers is None:
        workers = 4 if device.type == "cuda" else 0
    return Effort(flags.val_batch_size, flags.val_expressions, workers)


def _partial(places: Places, weights: str | None, flags, spec: str, images: int, protocol: Protocol) -> PartialResults:
    """Where the finished images of a split are kept. A limit is no part of it: a longer run goes on from a shorter."""
    asked = protocol.to_dict() | {"limit": None}
    keeps = flags.save_predictions or flags.gallery
    own = fingerprint(weights, asked, spec, images, str(Path(flags.dataset_dir).resolve()), keeps)
    shared = [own]
    if place()[1] > 1:
        torch.distributed.broadcast_object_list(shared, src=0)
    return PartialResults(places.partial, shared[0], key=fingerprint(spec, protocol.answer)[:8])


def _join_processes(flags) -> None:
    """Start talking to the other processes where a launcher has started several.

    One that cannot score a picture waits for the others, who first finish their shares: hours, perhaps.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    device = choose_device(flags.device, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=7))
    atexit.register(torch.distributed.destroy_process_group)
