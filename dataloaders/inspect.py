"""Look at a data folder: is it complete, what is drawn from it, what is asked in evaluation?

    python -m dataloaders.inspect --dataset_dir D                                   which sets are there, what is wrong
    python -m dataloaders.inspect --dataset_dir D --draw 5 --dataset refer_seg      training samples
    python -m dataloaders.inspect --dataset_dir D --val_dataset "ReasonSeg|val"     evaluation items

`--jsonl FILE` writes what is shown as one JSON object a line, `--sheet FILE.png` draws it with its masks. The flags
that describe the training data are those of `train_ds.py`.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.data_checks import SetReport, check_data
from dataloaders.mixture import build_mixture
from dataloaders.sample import Sample
from dataloaders.settings import declared_data
from groundscore.annotations.bad_entries import Tolerance
from groundscore.errors import UserError, printable, run_main
from groundscore.flags import PageHelp
from groundscore.names import split_names
from groundscore.splits import (
    EvaluationItem,
    LeftOut,
    evaluation_sets,
    read_item,
    too_many,
    unnumbered_entries,
)
from groundscore.splits.items import path_below
from groundscore.splits.wording import worded
from groundscore.targets import target_kinds
from utils.contact_sheet import SheetRow, contact_sheet, save_sheet
from utils.plugins import HELP, import_plugins
from utils.settings import Setting, add_setting, settings_of

SHOWN_PROBLEMS = 5
KINDS = ("bad", "broken", "incomplete")  # see `Problem`
SHEET_ROWS = 60
_OWN = ("dataset", "sample_rates", "skip_bad_samples")  # settings with another default here


def build_parser() -> argparse.ArgumentParser:
    """Returns the command line of `python -m dataloaders.inspect`."""
    parser = argparse.ArgumentParser(
        prog="python -m dataloaders.inspect", description=__doc__, formatter_class=PageHelp
    )
    parser.add_argument("--dataset_dir", default="./dataset", type=Path, metavar="DIR", help="root of all data sets")
    parser.add_argument("--decode", action="store_true", help="when checking, open every image and draw every mask")
    parser.add_argument("--draw", type=int, metavar="N", help="draw N training samples")
    parser.add_argument("--dataset", metavar="NAMES", help="families to draw from, joined by ||")
    parser.add_argument("--sample_rates", metavar="RATES", help="one rate per family (default: equal)")
    parser.add_argument("--seed", type=int, default=42, metavar="S", help="seed of the draws (default: 42)")
    parser.add_argument("--val_dataset", metavar="SPLITS", help="evaluation sets, joined by ||")
    parser.add_argument(
        "--skip_bad_samples",
        type=float,
        default=0.0,
        metavar="R",
        help="leave out and list bad draws or items up to this share (default: 0)",
    )
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write one JSON object per sample, item or set")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet (PNG)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--plugin", metavar="NAMES", help=HELP)
    group = parser.add_argument_group("training data, as in train_ds.py", argument_default=argparse.SUPPRESS)
    for setting in _shared_settings().values():
        add_setting(group, setting)
    return parser


def _shared_settings() -> dict[str, Setting]:
    """The settings of the training data that have the meaning and default of `train_ds.py` here too."""
    return {name: setting for name, setting in settings_of(*declared_data()).items() if name not in _OWN}


def main(argv: Sequence[str]) -> int:
    """Check a data folder or show what is drawn or evaluated; returns 1 where a set is bad."""
    import_plugins(argv)
    flags = build_parser().parse_args(argv)
    root: Path = flags.dataset_dir
    if not root.is_dir():
        raise UserError(f"--dataset_dir {root}: no such folder")
    if flags.draw is not None and flags.val_dataset is not None:
        raise UserError("--draw and --val_dataset exclude each other; give one of them")
    if flags.draw is not None:
        return _show(flags, _drawn(flags))
    if flags.val_dataset is not None:
        return _show(flags, _evaluated(flags))
    reports = []
    for report in check_data(root, decode=flags.decode):
        reports.append(report)
        print("\n".join(map(printable, _report_lines(report, root))), flush=True)
    if flags.jsonl:
        _write_lines(flags.jsonl, (describe_report(report, root) for report in reports))
    bad = [report for report in reports if report.state == "bad"]
    present = sum(report.state == "present" for report in reports)
    print("\n".join(_summary(reports, decode=flags.decode)))
    print(f"\n{present} sets are present, {len(bad)} bad, {len(reports) - present - len(bad)} missing")
    return 1 if bad else 0


# --- the check -------------------------------------------------------------------------------------------------------


def describe_report(report: SetReport, root: Path) -> dict[str, Any]:
    """Returns a report as JSON can hold it, paths from `root` on."""
    return {
        "family": report.family,
        "dataset": report.name,
        "state": report.state,
        "expected": [path_below(root, path) for path in report.expected],
        "found": [path_below(root, path) for path in report.found],
        "counts": report.counts,
        "repaired": len(report.repairs),
        **{kind: report.count(kind) for kind in KINDS},
        "problems": [{"kind": one.kind, "problem": one.text, "remedy": one.remedy} for one in report.problems],
        "repairs": [repair.to_dict() for repair in report.repairs],
        "notes": report.notes,
        "origin": report.origin,
    }


def _report_lines(report: SetReport, root: Path) -> Iterator[str]:
    counts = ", ".join(f"{split} {count}" for split, count in report.counts.items())
    yield f"{report.state:8} {report.family}/{report.name}  {counts}"
    if report.state == "missing":
        yield f"         expected {', '.join(path_below(root, path) for path in report.expected)}"
        yield f"         from: {report.origin}"
    for problem in report.problems[:SHOWN_PROBLEMS]:
        yield textwrap.indent(f"{problem.kind}: {problem.text}\n  remedy: {problem.remedy}", " " * 9)
    for note in report.notes:
        yield f"         note: {note}"
    if len(report.problems) > SHOWN_PROBLEMS:
        yield f"         and {len(report.problems) - SHOWN_PROBLEMS} more problems; --jsonl FILE lists all"


def _summary(reports: Sequence[SetReport], *, decode: bool) -> list[str]:
    """A table of the sets that are there: entries, repairs, and problems of each kind."""
    rows = [("set", "entries", "repaired", *KINDS)]
    for report in reports:
        if report.state != "missing":
            repaired = len(report.repairs) if decode else "-"
            counts = [sum(report.counts.values()), repaired, *map(report.count, KINDS)]
            rows.append((f"{report.family}/{report.name}", *map(str, counts)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return ["", *lines, *([] if decode else ["Masks are not drawn: --decode finds what is repaired or bad in them."])]


# --- samples and items -----------------------------------------------------------------------------------------------

Shown = tuple[dict[str, Any], list[SheetRow]]  # a JSON object, and how it is drawn


def describe_sample(sample: Sample, root: Path) -> dict[str, Any]:
    """A draw; `mask_areas` are those of the `[SEG]` targets, in their order."""
    kinds = sample.target_kinds
    return {
        "family": sample.family,
        "dataset": sample.dataset,
        "image": path_below(root, sample.image_path),
        "height": sample.size[0],
        "width": sample.size[1],
        "conversations": [
            [{"question": turn.question, "answer": turn.answer} for turn in turns] for turns in sample.conversations
        ],
        "mask_areas": [int(mask.sum()) for mask in sample.masks[kinds]],
        "ignore_area": 0 if sample.ignore is None else int(sample.ignore.sum()),
    }


def describe_item(item: EvaluationItem, spec: str, root: Path) -> dict[str, Any]:
    """An evaluation item; pixels to be ignored are in no mask."""
    counted = np.ones(item.image.shape[:2], bool) if item.ignore is None else ~item.ignore
    masks = (item.masks != 0) & counted
    described = {
        "split": spec,
        "image": path_below(root, item.image_path),
        "height": item.image.shape[0],
        "width": item.image.shape[1],
        "expressions": item.expressions,
        "exists": item.exists,
        "mask_areas": [int(mask.sum()) for mask in masks],
        "ignore_areas": [int((~counted).sum())] * len(masks),
        "mask_boxes": [_box(mask) for mask in masks],
    }
    if item.target_masks is not None:
        described["target_areas"] = [[int((mask & counted).sum()) for mask in one != 0] for one in item.target_masks]
        described["index"] = item.index
    return described


def _drawn(flags: argparse.Namespace) -> Iterator[Shown]:
    if not flags.dataset:
        raise UserError("--draw needs --dataset, such as --dataset refer_seg")
    rates = flags.sample_rates or [1.0] * len(split_names(flags.dataset))
    chosen = {name: getattr(flags, name) for name in _shared_settings() if hasattr(flags, name)}
    mixture = build_mixture(
        flags.dataset_dir,
        dataset=flags.dataset,
        sample_rates=rates,
        seed=flags.seed,
        samples_per_epoch=flags.draw,
        skip_bad_samples=flags.skip_bad_samples,
        **chosen,
    )
    for sample in mixture:
        yield describe_sample(sample, flags.dataset_dir), _sample_rows(sample)
    if mixture.bad_samples.skipped:
        print(f"{mixture.bad_samples.skipped} bad draws were left out", file=sys.stderr)


def _evaluated(flags: argparse.Namespace) -> Iterator[Shown]:
    rows_left = SHEET_ROWS if flags.sheet else 0
    tolerance = Tolerance(flags.skip_bad_samples)
    for spec, items in evaluation_sets(flags.val_dataset, flags.dataset_dir, tolerance).items():
        shown, left_out = [], []
        for number in range(len(items)):
            item = read_item(items, number, tolerance, flags.dataset_dir)
            if isinstance(item, LeftOut):
                left_out.append(item)
                if len(left_out) > tolerance.most(len(items)):
                    raise UserError(too_many(left_out))
                continue
            rows = _item_rows(item, spec) if rows_left > 0 else []
            rows_left -= len(rows)
            shown.append((describe_item(item, spec, flags.dataset_dir), rows))
        for one in [*unnumbered_entries(items), *left_out]:
            print(f"left out of {spec}: {one.reason}", file=sys.stderr)
        yield from sorted(shown, key=lambda pair: (pair[0]["image"], pair[0].get("index") or 0))


def _show(flags: argparse.Namespace, shown: Iterable[Shown]) -> int:
    rows: list[SheetRow] = []

    def described() -> Iterator[dict]:
        for description, drawn in shown:
            if flags.sheet and len(rows) < SHEET_ROWS:
                rows.extend(drawn)
            yield description

    if flags.jsonl:
        count = _write_lines(flags.jsonl, described())
        print(f"{count} objects: {flags.jsonl}")
    else:
        for description in described():
            print(json.dumps(description, ensure_ascii=False, indent=1))
    if flags.sheet:
        if not rows:
            raise UserError("nothing was drawn, so there is nothing for --sheet")
        flags.sheet.parent.mkdir(parents=True, exist_ok=True)
        save_sheet(contact_sheet(rows[:SHEET_ROWS]), flags.sheet)
        print(f"contact sheet: {flags.sheet}")
    return 0


def _sample_rows(sample: Sample) -> list[SheetRow]:
    """A row per turn, with the masks of its targets."""
    kinds = sample.target_kinds
    rows, used = [], 0
    for turn in (turn for turns in sample.conversations for turn in turns):
        count = len(target_kinds(turn.answer or ""))
        masks = sample.masks[used : used + count][kinds[used : used + count]] != 0
        used += count
        rows.append(
            SheetRow(
                image=sample.image,
                masks=masks,
                question=turn.question,
                answer=turn.answer or "",
                label=f"{sample.family}/{sample.dataset}",
            )
        )
    return rows


def _item_rows(item: EvaluationItem, spec: str) -> list[SheetRow]:
    """A row per expression, with its targets."""
    targets = item.target_masks if item.target_masks is not None else [mask[None] for mask in item.masks]
    return [
        SheetRow(
            image=item.image,
            masks=masks[masks.any((1, 2))] != 0,
            question=expression,
            answer=answer,
            ignore=item.ignore,
            label=spec,
        )
        for expression, answer, masks in zip(item.expressions, worded(item).answers, targets)
    ]


def _box(mask: np.ndarray) -> list[int] | None:
    """[x0, y0, x1, y1) of the foreground."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _write_lines(path: Path, values: Iterable[dict]) -> int:
    """Write an object a line; how many. What UTF-8 cannot hold becomes "?"."""
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", errors="replace") as file:
            for value in values:
                file.write(json.dumps(value, ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error
    return count


if __name__ == "__main__":
    run_main(main)
