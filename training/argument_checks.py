"""What is wrong with a training command line that can be known from it alone.

Paths and contents are checked by those who read them.
"""

import math
from pathlib import PurePath

from groundscore.annotations.repairs import Tolerance
from groundscore.errors import UserError
from model.settings import model_overrides
from training.config import FLASH_ATTENTION, TrainingConfig, split_list
from training.trainable import unfreezable
from utils.settings import check_settings, settings_of


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
    if "custom" in config.families and not split_list(config.custom_data):
        raise UserError("--dataset custom needs --custom_data: for custom/pets.jsonl it is --custom_data pets")
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
