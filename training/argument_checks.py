"""What is wrong with a training command line that can be known from it alone.

Paths and contents are checked by those who read them.
"""

import math
from dataclasses import fields
from pathlib import PurePath

from groundscore.annotations.repairs import Tolerance
from groundscore.errors import UserError
from training.config import FLASH_ATTENTION, UNFREEZABLE, TrainingConfig, split_list


def check(config: TrainingConfig) -> None:
    """Raises `UserError` for the first flag that is out of range or contradicts another."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{field.name} {value}: must be a finite number")
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

    for name in ("epochs", "steps_per_epoch", "batch_size", "grad_accumulation_steps", "print_freq", "keep"):
        _at_least(config, name, 1)
    for name in ("val_batch_size", "model_max_length", "num_classes_per_sample", "num_classes_per_question"):
        _at_least(config, name, 1)
    for name in ("llm_image_grid", "read_num_points", "read_down_sample", "seg_token_num", "image_feature_scale_num"):
        _at_least(config, name, 1)
    for name in ("read_t_pos", "read_t_neg"):
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} {value}: similarities lie between 0 and 1")
    for name in ("warmup_num_steps", "warmup_min_lr", "lora_r", "start_epoch", "workers", "val_limit"):
        _at_least(config, name, 0)
    if config.zero_stage == 3 and config.cache_features:
        raise UserError(
            "--cache_features: with --zero_stage 3 all processes call an encoder together or none does, and what is "
            "cached differs among them; leave one of the two out"
        )
    if config.attn_implementation == FLASH_ATTENTION:
        _check_flash_attention(config)
    for name in ("eval_interval", "save_interval", "save_minutes", "skip_nonfinite"):
        _at_least(config, name, 0)
    if config.save_interval and not config.save_ckpt:
        raise UserError("--save_interval is about the latest checkpoint, which --no_save_ckpt leaves out")
    _at_least(config, "collective_timeout", 1)
    for name in ("ce_loss_weight", "bce_loss_weight", "dice_loss_weight", "policy_loss_weight", "entropy_weight"):
        _at_least(config, name, 0)
    if config.policy_samples is not None and config.policy_samples < 2:
        raise UserError(f"--policy_samples {config.policy_samples}: a layer is compared with at least one other")
    if config.reward == "batch" and config.estimator not in (None, "sample"):
        raise UserError(f"--reward batch needs --estimator sample; {config.estimator} scores every target by itself")
    if config.entropy_weight_end is not None and config.entropy_weight_end < 0:
        raise UserError(f"--entropy_weight_end {config.entropy_weight_end}: must be at least 0")
    for name in ("lr", "policy_lr"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name} {value}: must be above 0")
    for name in ("beta1", "beta2", "lora_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: must be at least 0 and below 1")
    if config.cache_limit_gb <= 0:
        raise UserError(f"--cache_limit_gb {config.cache_limit_gb}: must be above 0")
    Tolerance(config.skip_bad_samples)
    if "custom" in config.families and not split_list(config.custom_data):
        raise UserError("--dataset custom needs --custom_data: for custom/pets.jsonl it is --custom_data pets")
    if config.explanatory > 1:
        raise UserError(f"--explanatory {config.explanatory}: a probability, or -1")
    if config.start_epoch >= config.epochs:
        raise UserError(f"--start_epoch {config.start_epoch}: nothing is left of --epochs {config.epochs}")

    for part in config.parts_to_unfreeze:
        if part not in UNFREEZABLE:
            raise UserError(f"--unfreeze {part}: unknown part; choose from {', '.join(UNFREEZABLE)}")
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


def _at_least(config: TrainingConfig, name: str, least: float) -> None:
    value = getattr(config, name)
    if value is not None and value < least:
        raise UserError(f"--{name} {value}: must be at least {least}")
