"""The command line of `train_ds.py`, made from the declared settings.

Hyphens are accepted for underscores. Flags without effect do not exist: `REFUSED` says why for those that a recipe of
the reference may carry. What contradicts itself is found here; paths and contents are checked by those who read them.
"""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import PurePath

from dataloaders.families import FAMILIES
from groundscore.annotations.repairs import Tolerance
from groundscore.errors import UserError
from groundscore.reading import user_path
from model.settings import model_overrides
from model.systems import find_system
from training.config import FLASH_ATTENTION, FileSettings, TrainingConfig, config_class
from training.config_files import file_settings, find_recipe
from training.trainable import unfreezable
from utils.flags import FlagParser
from utils.plugins import import_plugins
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


def build_parser() -> FlagParser:
    """The parser of `train_ds.py`, with a flag for every declared setting."""
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


def check(config: TrainingConfig) -> None:
    """Raises `UserError` for the first flag that is out of range or contradicts another."""
    check_settings(vars(config), settings_of(type(config)))
    try:
        rates = config.rates
    except ValueError:
        raise UserError(f"--sample_rates {config.sample_rates}: expected numbers joined by commas") from None
    if len(rates) != len(config.families):
        raise UserError(
            f"--sample_rates {config.sample_rates} has {len(rates)} numbers, "
            f"but --dataset {config.dataset} has {len(config.families)} families; give one number per family"
        )
    if not all(0 <= rate < math.inf for rate in rates) or sum(rates) == 0:
        raise UserError(f"--sample_rates {config.sample_rates}: numbers must not be negative, and one must be above 0")
    if len(set(config.families)) != len(config.families):
        raise UserError(f"--dataset {config.dataset} names a family twice")

    if config.zero_stage == 3 and config.cache_features:
        raise UserError(
            "--cache_features: with --zero_stage 3 all processes call an encoder together or none does, and what is "
            "cached differs among them; leave one of the two out"
        )
    if config.attn_implementation == FLASH_ATTENTION:
        _check_flash_attention(config)
    if config.save_interval and not config.save_ckpt:
        raise UserError("--save_interval is about the latest checkpoint, which --no_save_ckpt leaves out")
    model_overrides(vars(config))
    Tolerance(config.skip_bad_samples)
    for name, rate in zip(config.families, rates):
        if name in FAMILIES and rate > 0:
            FAMILIES[name].check(config)
    if config.start_epoch >= config.epochs:
        raise UserError(f"--start_epoch {config.start_epoch}: nothing is left of --epochs {config.epochs}")

    for part in config.parts_to_unfreeze:
        if part not in unfreezable():
            raise UserError(f"--unfreeze {part}: unknown part; choose from {', '.join(unfreezable())}")
    if "language_model" in config.parts_to_unfreeze and config.lora_r > 0:
        raise UserError("--unfreeze language_model trains the whole LLM: add --lora_r 0, which leaves LoRA out")
    for split in config.val_splits:
        if split.count("|") not in (1, 2) or not all(split.split("|")):
            raise UserError(f"--val_dataset {split}: expected name|split or name|splitBy|split")
    if not config.val_splits and not config.no_eval:
        raise UserError("--val_dataset is empty: name a split, or pass --no_eval")
    rules = ("last", "greedy", "mixture", "sample")
    if config.layer is not None and config.layer not in rules and not config.layer.isdigit():
        raise UserError(f"--layer {config.layer}: expected {', '.join(rules)} or an index")
    if config.no_eval and config.eval_only:
        raise UserError("--no_eval and --eval_only contradict each other")
    if config.dry_run and config.eval_only:
        raise UserError("--dry_run is about training; leave --eval_only out")
    name = PurePath(config.run_name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise UserError(f"--exp_name {config.exp_name}: a name below --log_base_dir is needed")


def _check_flash_attention(config: TrainingConfig) -> None:
    flag = f"--attn_implementation {FLASH_ATTENTION}"
    if config.pack:
        raise UserError(
            f"{flag}: flash-attn cannot express packed rows; leave it out (packed rows with sdpa are the fast way), or "
            "add --plain_rows"
        )
    if config.pad_train_clip_images:
        raise UserError(
            f"{flag}: flash-attn cannot mask the padding of --pad_train_clip_images; leave out one of the two"
        )
    if config.device == "cpu" or config.precision == "fp32":
        other = "--device cpu" if config.device == "cpu" else "--precision fp32"
        raise UserError(f"{flag}: flash-attn runs on GPUs in bf16 or fp16; leave it out, or {other}")
