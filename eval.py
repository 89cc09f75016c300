"""Score a checkpoint on held-out splits, and draw what it answers.

    python eval.py --version runs/quickstart/merged --dataset_dir data/miniature \
        --val_dataset "ReasonSeg|val||refcoco|unc|val" --answer both --output report.json --sheet sheet.png

Several processes share the images: start it with `torchrun --nproc_per_node N eval.py …`.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, run_main
from utils.flags import FlagParser, add_model_flags, count, load_flagged_model, positive

EXPLAIN = {
    "given": "the answer with its [SEG] is given; masks alone are scored",
    "generated": "the model writes the answer itself",
}


def build_parser() -> FlagParser:
    parser = FlagParser(prog="eval.py", description="Score a checkpoint on held-out splits.")
    add_model_flags(parser)
    group = parser.add_argument_group("evaluation")
    group.add_argument("--dataset_dir", default="./dataset", metavar="DIR", help="root of all data sets")
    group.add_argument("--val_dataset", default="ReasonSeg|val", metavar="SPLITS", help="splits joined by ||")
    group.add_argument(
        "--answer",
        choices=("given", "generated", "both"),
        default="generated",
        help="given: the reference's protocol, the answer is forced; generated: the model writes it",
    )
    group.add_argument("--val_batch_size", type=positive, default=8, metavar="N", help="prompts at a time")
    group.add_argument("--max_new_tokens", type=positive, default=128, metavar="N", help="longest answer")
    group.add_argument("--limit", type=positive, metavar="N", help="score the first N images of each split only")
    group.add_argument("--workers", type=count, metavar="N", help="processes that read images ahead (GPU: 4, CPU: 0)")
    group = parser.add_argument_group("results")
    group.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    group.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet (PNG) of answered samples")
    group.add_argument("--sheet_samples", type=positive, default=8, metavar="N", help="samples on it, from all splits")
    group.add_argument("--vis", type=count, default=0, metavar="N", help="pictures of N answered samples per split")
    group.add_argument("--vis_save_path", type=Path, default="./vis_output", metavar="DIR", help="where they go")
    return parser


def main(argv: Sequence[str]) -> None:
    flags = build_parser().parse(argv)
    if not Path(flags.dataset_dir).is_dir():
        raise UserError(f"--dataset_dir {flags.dataset_dir}: no such directory")

    from dataloaders.evaluation import evaluation_sets
    from utils.evaluation import PROTOCOLS, evaluate
    from utils.saving import make_directory

    for path in filter(None, (flags.output, flags.sheet)):
        if path.is_dir():
            raise UserError(f"{path} is a directory; name a file in it")
        make_directory(path.parent)
    if flags.vis:
        make_directory(flags.vis_save_path)
    sets = evaluation_sets(flags.val_dataset, flags.dataset_dir)
    rank = _join_processes(flags)
    model, processor = load_flagged_model(flags, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    if flags.workers is None:
        flags.workers = 4 if model.device.type == "cuda" else 0

    reports = []
    for split, items in sets.items():
        for answer in PROTOCOLS if flags.answer == "both" else [flags.answer]:
            report = evaluate(
                model,
                processor,
                split,
                flags.dataset_dir,
                answer=answer,
                layer=flags.layer,
                batch_size=flags.val_batch_size,
                max_new_tokens=flags.max_new_tokens,
                limit=flags.limit,
                workers=flags.workers,
                items=items,
                progress=_progress_line(f"{split} {answer}") if rank == 0 else None,
            )
            reports.append(report)
    if rank == 0:
        print(table(reports))
        if flags.output:
            write_report(flags.output, reports, argv)
            print(f"report: {flags.output}")
        draw(flags, model, processor, sets)


def table(reports: Sequence) -> str:
    """The reports as an aligned Markdown table."""
    header = ["split", "answer", "gIoU", "cIoU", "P@0.5", "expressions", "silent", "layers", "seconds"]
    lines = [header]
    for report in reports:
        numbers = [report.gIoU, report.cIoU, report.precision["P@0.5"]]
        lines.append(
            [
                report.split.replace("|", "\\|"),
                report.answer,
                *("none" if number is None else f"{number:.4f}" for number in numbers),
                str(report.expressions),
                str(report.silent),
                " ".join(f"{layer}:{count}" for layer, count in report.layers.items()) or "-",
                f"{report.seconds:.1f}",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"{name}: {EXPLAIN[name]}" for name in dict.fromkeys(report.answer for report in reports)]
    return "\n".join([*rows, "", *notes])


def write_report(path: Path, reports: Sequence, argv: Sequence[str]) -> None:
    """`splits` -> split -> protocol -> numbers, and the layers that prompted masks in all of them."""
    splits, layers = {}, {}
    for report in reports:
        splits.setdefault(report.split, {})[report.answer] = report.to_dict()
        for layer, times in report.layers.items():
            layers[str(layer)] = layers.get(str(layer), 0) + times
    content = {"splits": splits, "layers": layers, "command": ["eval.py", *argv]}
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(path)


def draw(flags, model, processor, sets: dict) -> None:
    """The contact sheet and the single pictures that the flags ask for."""
    if not flags.sheet and not flags.vis:
        return
    from utils.chat_session import ChatSession
    from utils.contact_sheet import contact_sheet
    from utils.evaluation import sample_rows

    session = ChatSession(model, processor, layer=flags.layer, max_new_tokens=flags.max_new_tokens)
    if flags.sheet:
        rows = []
        for number, (split, items) in enumerate(sets.items()):
            share = flags.sheet_samples // len(sets) + (number < flags.sheet_samples % len(sets))
            rows += sample_rows(session, split, items, share)
        contact_sheet(rows).save(flags.sheet, format="PNG")
        print(f"contact sheet: {flags.sheet}")
    for split, items in sets.items() if flags.vis else ():
        directory = flags.vis_save_path / split.replace("|", "_")
        directory.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(sample_rows(session, split, items, flags.vis), start=1):
            contact_sheet([row]).save(directory / f"{number:04d}.png")
        print(f"pictures: {directory}")


def _join_processes(flags) -> int:
    """This process's number; starts talking to the others where a launcher has started several."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0
    import atexit

    import torch

    from utils.distributed import choose_device

    device = choose_device(flags.device, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(torch.distributed.destroy_process_group)
    return torch.distributed.get_rank()


def _progress_line(name: str):
    """A line on the terminal that is rewritten as images are done; nothing where there is no terminal."""
    if not sys.stderr.isatty():
        return None
    start = time.monotonic()

    def show(done: int, total: int, giou: float | None) -> None:
        left = (time.monotonic() - start) / done * (total - done)
        line = f"{name}: {done}/{total} images, gIoU {giou:.4f}, {left:.0f} s left"
        print(f"\r\x1b[K{line}", end="\r\x1b[K" if done == total else "", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    run_main(main)
