"""The command line of `train_ds.py`, made from the declared settings.

Hyphens are accepted for underscores. Flags without effect do not exist: `REFUSED` says why for those that a recipe of
the reference may carry. What contradicts itself is found here; paths and contents are checked by those who read them.
"""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from groundscore.errors import UserError
from groundscore.reading import user_path
from model.settings import model_overrides
from model.systems import find_system
from training.config import TrainingConfig, config_class, parts
from training.config_files import file_settings
from training.settings import FileSettings
from utils.flags import FlagParser
from utils.plugins import import_plugins
from utils.recipes import find_recipe
from utils.settings import add_setting, check_settings, settings_of

REFUSED = {
    "vis_save_path": "training draws no images; `chat.py` and `app.py` have this flag",
    "load_in_8bit": "training needs unquantised weights; `chat.py` can load in 8 bit",
    "load_in_4bit": "training needs unquantised weights; `chat.py` can load in 4 bit",
    "masks_process_with_clip": "masks are always scored at the size of the original image",
    "use_mm_start_end": "the image is always wrapped in <im_start> and <im_end>",
}


def parse_arguments(argv: Sequence[str]) -> TrainingConfig:
    """A checked configuration of defaults, `--recipe`, `--config` and the other flags; the later one wins.

    Raises `UserError`; `--help` prints and exits.
    """
    import_plugins(argv)
    parser = build_parser()
    flags = vars(parser.parse(argv))
    files = {}
    if "recipe" in flags:
        files |= file_settings(find_recipe(flags["recipe"]), parser)
    if "config" in flags:
        files |= file_settings(user_path(flags["config"]), parser)
    values = {name: setting.value for name, setting in files.items()} | flags
    config = config_class()(**values, given=frozenset(values))
    try:
        config.model_key = find_system(config.model_key)
        check(config)
    except UserError as error:
        named = [name for name in re.findall(r"--(\w+)", str(error)) if name in files and name not in flags]
        places = "".join(f"; --{name} is set in {files[name].where}" for name in dict.fromkeys(named))
        raise UserError(f"{error}{places}") from error
    return config


def given_flags(config: TrainingConfig) -> list[str]:
    """The words of a command line that give the same settings without files, in the order of `--help`."""
    parser = build_parser()
    left_out = (*settings_of(FileSettings), "local_rank")
    names = [name for name in ("plugin", *settings_of(type(config))) if name in config.given and name not in left_out]
    return [word for name in names for word in parser.words_for(name, getattr(config, name))]


def build_parser(*, common: bool = False) -> FlagParser:
    """The parser of `train_ds.py`, with a flag for every declared setting, or for the common ones."""
    settings = settings_of(config_class())
    parser = FlagParser(
        prog="train_ds.py",
        usage="train_ds.py [--recipe NAME | --config FILE] [--FLAG VALUE …]",
        description="Train a visual grounding model. Run with `deepspeed`, `torchrun` or `python`, on GPU or CPU.",
        epilog=f"`train_ds.py --help` lists all {len(settings)} flags."
        if common
        else "`train_ds.py -h` lists those that most runs need.",
        argument_default=argparse.SUPPRESS,
        refused=REFUSED,
        add_help=False,
    )
    parser.add_argument("-h", action=_ShortHelp, nargs=0, help="show the flags that most runs need, and stop")
    parser.add_argument("--help", action="help", help="show all flags, and stop")
    groups = {}
    for setting in settings.values():
        if common and not setting.common:
            continue
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        add_setting(groups[setting.group], setting)
    return parser


class _ShortHelp(argparse.Action):
    """Prints the help of the common flags."""

    def __call__(self, *_: object) -> NoReturn:
        build_parser(common=True).print_help()
        raise SystemExit(0)


def check(config: TrainingConfig) -> None:
    """Raise `UserError` for the first flag that is out of range or contradicts another."""
    check_settings(vars(config), settings_of(type(config)))
    model_overrides(vars(config))
    for part in parts():
        if hasattr(part, "check"):
            part.check(config)
