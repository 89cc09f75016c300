"""The command line of `train_ds.py`, made from the fields of `TrainingConfig`.

Hyphens are accepted for underscores. Flags without effect do not exist: `REFUSED` says why for those that a recipe of
the reference may carry.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from utils.flags import FlagParser
from utils.systems import find_system
from utils.training.argument_checks import check
from utils.training.config import TrainingConfig

REFUSED = {
    "vis_save_path": "training draws no pictures; `chat.py` and `app.py` have this flag",
    "load_in_8bit": "training needs unquantised weights; `chat.py` can load in 8 bit",
    "load_in_4bit": "training needs unquantised weights; `chat.py` can load in 4 bit",
    "masks_process_with_clip": "masks are always scored at the size of the original image",
    "use_mm_start_end": "the image is always wrapped in <im_start> and <im_end>",
}


def parse_arguments(argv: Sequence[str]) -> TrainingConfig:
    """Flags -> a checked configuration. Raises `UserError`; `--help` prints and exits."""
    parser = build_parser()
    values = vars(parser.parse(argv))
    config = TrainingConfig(**values, given=frozenset(values))
    config.model_key = find_system(config.model_key)
    check(config)
    return config


def build_parser() -> FlagParser:
    parser = FlagParser(
        prog="train_ds.py",
        usage="train_ds.py --version DIR --dataset_dir DIR [flags]",
        description="Train a visual grounding model. Run with `deepspeed`, `torchrun` or `python`, on GPU or CPU.",
        argument_default=argparse.SUPPRESS,
        refused=REFUSED,
    )
    groups = {}
    for item in dataclasses.fields(TrainingConfig):
        if "group" not in item.metadata:
            continue
        name = item.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_flag(groups[name], item)
    return parser


def _add_flag(group, item: dataclasses.Field) -> None:
    kind = _value_type(item.type)
    text = item.metadata["help"]
    if kind is bool:
        on, *off = item.metadata.get("names", (item.name, f"no_{item.name}"))
        state = "" if item.default is None else f" (default: {'on' if item.default else 'off'})"
        group.add_argument(f"--{on}", dest=item.name, action="store_true", help=text + (state if off else ""))
        for name in off:
            group.add_argument(f"--{name}", dest=item.name, action="store_false", help=f"the opposite of --{on}")
        return
    if item.default not in (None, ""):
        text += f" (default: {item.default})"
    flags = [f"--{name}" for name in (item.name, *item.metadata.get("aliases", ()))]
    metavar = "{" + ",".join(map(str, item.metadata["choices"])) + "}" if "choices" in item.metadata else None
    group.add_argument(
        *flags,
        dest=item.name,
        type=kind,
        choices=item.metadata.get("choices"),
        metavar=metavar or {int: "N", float: "X", str: "TEXT"}[kind],
        help=text.replace("%", "%%"),
    )


def _value_type(annotation) -> type:
    """The type of a field, without the None of `int | None`."""
    members = getattr(annotation, "__args__", (annotation,))
    return next(member for member in members if member is not type(None))
