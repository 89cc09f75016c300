"""The command line of `train_ds.py`, made from the fields of `TrainingConfig`.

Hyphens are accepted for underscores. Flags without effect do not exist: `REFUSED` says why for those that a recipe of
the reference may carry.
"""

import argparse
from collections.abc import Sequence

from model.systems import find_system
from training.argument_checks import check
from training.config import TrainingConfig, config_class
from utils.flags import FlagParser
from utils.plugins import import_plugins
from utils.settings import add_setting, settings_of

REFUSED = {
    "vis_save_path": "training draws no pictures; `chat.py` and `app.py` have this flag",
    "load_in_8bit": "training needs unquantised weights; `chat.py` can load in 8 bit",
    "load_in_4bit": "training needs unquantised weights; `chat.py` can load in 4 bit",
    "masks_process_with_clip": "masks are always scored at the size of the original image",
    "use_mm_start_end": "the image is always wrapped in <im_start> and <im_end>",
}


def parse_arguments(argv: Sequence[str]) -> TrainingConfig:
    """Flags -> a checked configuration. Raises `UserError`; `--help` prints and exits."""
    import_plugins(argv)
    parser = build_parser()
    values = vars(parser.parse(argv))
    config = config_class()(**values, given=frozenset(values))
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
    for setting in settings_of(config_class()).values():
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        add_setting(groups[setting.group], setting)
    return parser
