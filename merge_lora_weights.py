"""Make one self-contained model of a training run: base, LoRA and trained weights merged, saved and read back.

    python merge_lora_weights.py --weight runs/quickstart --save_path runs/quickstart/merged

`--weight` is a run (its best checkpoint, else its latest), a directory of checkpoints, one checkpoint, or a
consolidated training file (or directory of shards) of the reference (then with `--version`, its base). Tensors are
read, merged in fp32, rounded to `--precision` and written one by one: what is in memory is what was trained, not the
model. The new directory is read back, and its logits and masks for a small input are compared with the run's; only
then it gets its name. `--overwrite` replaces a merged model of this program, and nothing else. `--export reference`
writes the reference's names, `--export adapter` the trained parameters alone, `--export transformers` the multimodal
LLM alone as its base was published (backbones other than LLaVA).
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groundscore.errors import UserError, run_main
from groundscore.progress import ProgressBar, data_size
from groundscore.reading import user_path
from groundscore.writing import make_directory
from inference.model_flags import add_inference_settings, inference_overrides
from model.settings import check_overrides, inference_settings
from model.systems import find_system
from utils.flags import FlagParser
from utils.plugins import import_plugins

if TYPE_CHECKING:
    from checkpoints.card import CardExample
    from checkpoints.merging import Merge
    from inference.many_questions import PromptLine

OURS, REFERENCE, ADAPTER, TRANSFORMERS = "uground", "reference", "adapter", "transformers"


def build_parser() -> FlagParser:
    """The flags."""
    parser = FlagParser(
        prog="merge_lora_weights.py", description="Merge a training run into one self-contained model directory."
    )
    parser.add_argument("--weight", required=True, metavar="DIR", help="run, checkpoint, consolidated file")
    parser.add_argument("--save_path", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --save_path if it is a merged model")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="dtype of the saved weights (default: that of training)"
    )
    parser.add_argument(
        "--export",
        choices=(OURS, REFERENCE, ADAPTER, TRANSFORMERS),
        default=OURS,
        help="names and layout of the saved directory",
    )
    parser.add_argument(
        "--no_check",
        action="store_true",
        help="skip the final comparison of the merged model with the run",
    )
    group = parser.add_argument_group("for the model card")
    group.add_argument(
        "--examples",
        metavar="FILE.jsonl",
        help="questions as chat.py --prompts reads them; the merged model answers the first four, and its card and the "
        "dashboard show them",
    )
    group.add_argument("--report", metavar="FILE.json", help="a report of eval.py, whose scores the card shows")
    parser.add_argument("--push_to_hub", metavar="ID", help="also upload the merged model to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    group = parser.add_argument_group("base, where it is no longer at the path that the run recorded")
    group.add_argument("--version", metavar="DIR", help="base LLaVA, or the merged model that training started from")
    group.add_argument("--vision_tower", metavar="DIR", help="CLIP")
    group.add_argument("--vision_pretrained", metavar="FILE", help="SAM, SAM-HQ, SAM 2.1 or SAM 3")
    group = parser.add_argument_group("for a consolidated file of the reference")
    group.add_argument("--model_key", metavar="SYSTEM", help="system of the file")
    group.add_argument(
        "--lora_alpha", type=float, default=16, metavar="X", help="LoRA scale times rank in its training"
    )
    add_inference_settings(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str]) -> None:
    """Merge, compare and, with `--push_to_hub`, upload."""
    import_plugins(argv)
    flags = build_parser().parse(argv)
    target = Path(flags.save_path)
    if target.exists() and not flags.overwrite:
        raise UserError(f"--save_path {target} already exists; choose another directory, or pass --overwrite")
    if flags.push_to_hub and flags.export != OURS:
        raise UserError(f"--push_to_hub uploads a merged model; leave --export {flags.export} out")
    if (flags.examples or flags.report) and flags.export != OURS:
        raise UserError(
            f"--examples and --report are for the card of a merged model; leave --export {flags.export} out"
        )
    _check_weight(flags)
    card = read_card_parts(flags)
    _keep_apart(target, {"--weight": flags.weight})
    make_directory(user_path(target).parent)
    if target.exists():
        from checkpoints.digests import refuse_foreign

        refuse_foreign(target.resolve())

    print(f"merging {flags.weight} …", file=sys.stderr)
    merge = read_merge(flags)
    report = merge.opened.report
    print(report.whole() if flags.debug else report, file=sys.stderr)
    _keep_apart(target, merge.base)
    results = []

    def check(written: Path) -> None:
        from checkpoints.merging import check_merge

        print("comparing with the run …", file=sys.stderr)
        results.append(str(check_merge(merge.load_unmerged, reader_of(written, merge), merge.precision)))

    checked = None if flags.no_check else check
    if flags.export == ADAPTER:
        export_adapter(merge, flags, target, check=checked)
    else:
        export_merged(merge, flags, target, card=card, check=checked)
    without = "--no_check" if flags.no_check else "it makes no masks"
    print(f"answers as the run does: {results[0]}" if results else f"not compared with the run ({without})")
    if flags.push_to_hub:
        from checkpoints.saving import upload

        print(f"uploaded: {upload(target, flags.push_to_hub, private=flags.private or None)}")


def _check_weight(flags: Namespace) -> None:
    """Raise `UserError` for flags that do not fit the kind of `--weight`, before anything is read."""
    from checkpoints.merging import is_training

    if is_training(flags.weight):
        return
    if not flags.version:
        what = "is no training run of this program" if Path(flags.weight).exists() else "is neither here nor a run"
        raise UserError(
            f"--weight {flags.weight} {what}; for a consolidated file of the reference pass --version, the base that "
            "it was trained from"
        )
    if flags.export == ADAPTER:
        raise UserError("--export adapter: a consolidated file is merged; only a training run has an adapter to save")


def _keep_apart(target: Path, sources: Mapping[str, str | None]) -> None:
    """Refuse a target that takes the place of what is merged, or lies among a run's checkpoints.

    sources: by flag or by what they are; hub ids are no paths here.
    """
    from checkpoints.runs import BEST, LATEST

    place = user_path(target).resolve()
    for name, source in sources.items():
        if source and Path(source).exists() and Path(source).resolve().is_relative_to(place):
            raise UserError(
                f"--save_path {target} is, or contains, {source} ({name}), which is read; choose another one"
            )
    if {LATEST, BEST} & set(place.parts):
        raise UserError(f"--save_path {target} is inside the checkpoints of a run; choose another directory")


@dataclass(frozen=True)
class CardParts:
    """What flags add to the card. report: a table of scores; examples: questions that the merged model answers."""

    report: str | None
    examples: Sequence["PromptLine"]


def read_card_parts(flags: Namespace) -> CardParts:
    """What `--examples` and `--report` name, read before any work is spent."""
    from groundscore.scoring.report import read_report
    from groundscore.scoring.tables import scores_table
    from inference.examples import read_examples

    table = None
    if flags.report:
        report = read_report(Path(flags.report))
        nested = not any("protocol" in scores for scores in report["splits"].values())
        table = scores_table(report["splits"], nested=nested)
    return CardParts(table, read_examples(Path(flags.examples)) if flags.examples else ())


def export_merged(
    merge: "Merge", flags: Namespace, target: Path, *, card: CardParts, check: Callable[[Path], None] | None
) -> None:
    """Merge while writing, under our names, the reference's or those of transformers."""
    from checkpoints import export_base, export_reference, save_model
    from checkpoints.sources import HUB_CLIP

    model, processor = merge.opened.model, merge.opened.processor
    bar = ProgressBar("writing", shown=data_size)
    common = {"tensors": merge.tensors, "overwrite": flags.overwrite, "progress": bar.show, "check": check}
    if flags.export == REFERENCE:
        tower = merge.base.get("vision_tower") or HUB_CLIP
        export_reference(model, processor, target, vision_tower=tower, **common)
        what = "the reference's names, without CLIP"
    elif flags.export == TRANSFORMERS:
        export_base(model, processor, target, **common | {"check": None})
        what = f"{merge.opened.model.config.backbone} of transformers, without what makes masks"
    else:

        def examples(written: Path) -> "CardExample":
            from inference.examples import write_examples

            print("answering the examples …", file=sys.stderr)
            return write_examples(written, card.examples, *reader_of(written, merge)(merge.precision))

        save_model(
            model,
            processor,
            target,
            base=merge.base.get("version"),
            scores=merge.scores,
            report=card.report,
            name=flags.push_to_hub or flags.save_path,
            examples=examples if card.examples else None,
            **common,
        )
        what = f"{len(merge.tensors)} tensors"
    print(f"{target}: {what}, in {merge.precision}, read back and equal bit for bit")


def export_adapter(merge: "Merge", flags: Namespace, target: Path, *, check: Callable[[Path], None] | None) -> None:
    """Write the trained parameters, without their base."""
    from checkpoints import save_adapter
    from checkpoints.loading import PRECISIONS

    model, processor = merge.load_unmerged("fp32")
    # Parameters only: buffers such as the running reward stay exact.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(PRECISIONS[merge.precision])
    common = {"overwrite": flags.overwrite, "check": check}
    save_adapter(model, processor, target, base=merge.base, scores=merge.scores, **common)
    print(f"{target}: what was trained on {merge.base['version']}, in {merge.precision}")


def read_merge(flags: Namespace) -> "Merge":
    """What `--weight` names, ready to be merged."""
    from checkpoints.merging import is_training, merge_of_consolidated, merge_of_run

    base = {name: getattr(flags, name) for name in ("version", "vision_tower", "vision_pretrained")}
    base = {name: path for name, path in base.items() if path}
    changed = {"precision": flags.precision, "base": base, "overrides": inference_overrides(flags)}
    if not is_training(flags.weight):
        system = find_system(flags.model_key) if flags.model_key else None
        merge = merge_of_consolidated(flags.weight, system=system, lora_alpha=flags.lora_alpha, **changed)
    else:
        merge = merge_of_run(flags.weight, **changed)
    check_overrides(changed["overrides"], merge.opened.model.config.system)
    return merge


def reader_of(written: Path, merge: "Merge") -> Callable[[str], tuple]:
    """precision -> (model, processor) of the directory that was written."""
    from checkpoints import load_model

    # The reference keeps CLIP elsewhere, and its configuration has none of these settings; the other layouts tell all.
    config = merge.opened.model.config
    settings = {name: getattr(config, name) for name in inference_settings()}
    tower = merge.base.get("vision_tower")
    return lambda precision: load_model(written, precision=precision, vision_tower=tower, overrides=settings)[:2]


if __name__ == "__main__":
    run_main(main)
