"""Flags -> data, model and engine: `build`, each problem found before training starts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from checkpoints import LoadReport, architecture, open_model
from checkpoints.files import read_config
from checkpoints.hub import find_model
from checkpoints.processing import GroundingProcessor
from checkpoints.runs import Position, read_settings
from dataloaders.batching.batch import Batch
from dataloaders.batching.collate import Collator
from dataloaders.families import FAMILIES
from dataloaders.mixture import Mixture
from dataloaders.settings import rates_in_use
from groundscore.annotations.bad_entries import Tolerance
from groundscore.data_root import check_data_root
from groundscore.errors import UserError
from groundscore.reading import read_json, user_path
from model.config import GroundingConfig
from model.feature_cache import FeatureCache
from model.grounding import GroundingModel
from model.lora import add_lora
from model.outputs import LossWeights
from model.settings import model_overrides
from training.config import TrainingConfig
from training.data import PREFETCHED, build_batches, build_data, expected_batch_bytes, worker_count
from training.engine import engine_of
from training.loop import Schedule
from training.memory import shared_memory_warning
from training.progress import StepMeter
from training.resuming import checkpoint_to_resume, describe_changes, describe_run, keep_gate
from training.settings import FLASH_ATTENTION
from training.summaries import describe_data, describe_parameters, describe_training
from training.trainable import count_parameters, set_trainable, trainable_prefixes
from training.validation import Validation
from utils.distributed import World
from utils.logging import OutputLog


@dataclass
class Launch:
    """What a launch has before anything is built.

    precision: fp32, bf16 or fp16. output: the captured output; None with `--dry_run`. say: prints on the main rank.
    validation: opened before the launch leaves anything; None with `--no_eval`.
    width: of the terminal; None for a file.
    """

    config: TrainingConfig
    world: World
    precision: str
    output: OutputLog | None
    say: Callable[[str], None]
    validation: Validation | None
    width: int | None


@dataclass
class Built:
    """All parts of a training.

    checkpoint: the one that is resumed, or None. settings: what checkpoints record of the run, see `describe_run`.
    workers: data-loading processes of a rank. engine: DeepSpeed's, around the model.
    """

    engine: Any
    processor: GroundingProcessor
    mixture: Mixture
    collator: Collator
    schedule: Schedule
    validation: Validation | None
    meter: StepMeter
    settings: dict[str, Any]
    checkpoint: Path | None
    workers: int

    def batches_from(self, start: Position, world: World) -> Iterable[Batch]:
        """The micro-batches of this rank from `start` to the end of training."""
        return build_batches(self.mixture, self.collator, self.schedule, start, world, self.workers)


def check_paths(config: TrainingConfig) -> None:
    """Files and directories that the command line names."""
    check_data_root(config.dataset_dir, "--dataset_dir")
    for name in ("preprocessor_config", "resume"):
        path = getattr(config, name)
        if path and not Path(path).exists():
            raise UserError(f"--{name} {path}: no such file or directory")
    for name in ("version", "vision_tower", "vision_pretrained", "weight"):
        path = getattr(config, name)
        if path and path.startswith((".", "/", "~")) and not user_path(path).exists():
            raise UserError(f"--{name} {path}: no such file or directory")


def check_data_sets(config: TrainingConfig) -> None:
    """Data sets and splits of the families in use; what they hold is read later."""
    if not config.eval_only:
        for name in rates_in_use(config):
            FAMILIES[name].check_names(Path(config.dataset_dir), config)


def choose_precision(precision: str | None, device: torch.device) -> str:
    """What was asked for, or bf16 on a GPU and fp32 on a CPU."""
    if precision == "fp16" and device.type == "cpu":
        from deepspeed.accelerator import get_accelerator

        if not get_accelerator().is_fp16_supported():
            raise UserError(
                "--precision fp16: DeepSpeed trains it on GPUs, and on CPUs that compute in fp16 (AVX512-FP16), which "
                "this one does not; use fp32 or bf16"
            )
    return precision or ("bf16" if device.type == "cuda" else "fp32")


def check_flash_attention(config: TrainingConfig, device: torch.device, precision: str) -> None:
    """Raises `UserError` where the machine cannot run the flash-attn that was asked for."""
    if config.attn_implementation != FLASH_ATTENTION:
        return
    flag = f"--attn_implementation {FLASH_ATTENTION}"
    if device.type != "cuda":
        raise UserError(f"{flag}: flash-attn needs a GPU, and this runs on the CPU; leave it out")
    if precision == "fp32":
        raise UserError(f"{flag}: flash-attn computes in bf16 and fp16, not in fp32; leave it out, or --precision")
    if find_spec("flash_attn") is None:
        raise UserError(f"{flag}: flash-attn is not installed (./build.sh --flash-attn)")


def schedule_of(config: TrainingConfig, world: World) -> Schedule:
    """Steps, samples and intervals of the run."""
    return Schedule(
        epochs=config.epochs,
        steps_per_epoch=config.steps_per_epoch,
        accumulation=config.grad_accumulation_steps,
        batch_size=config.batch_size,
        world_size=world.size,
        eval_interval=config.eval_interval,
        save_interval=config.save_interval,
    )


def build_model(config: TrainingConfig, *, precision: str) -> tuple[GroundingModel, GroundingProcessor, LoadReport]:
    """The model that the flags describe, on the CPU, its processor and what was loaded. Does not set
    `requires_grad`."""
    opened = open_model(
        config.version,
        system=_system_of(config),
        vision_tower=config.vision_tower,
        vision_pretrained=config.vision_pretrained,
        precision=precision,
        overrides=model_overrides(vars(config)),
        seed=config.seed,
        weight=config.weight,
        lora_alpha=config.lora_alpha,
    )
    model = opened.model
    _check_model(model.config, config)
    opened.fill()
    model.backbone.use_attention(config.attn_implementation)
    model.loss_weights = LossWeights(
        ce=config.ce_loss_weight,
        bce=config.bce_loss_weight,
        dice=config.dice_loss_weight,
        policy=config.policy_loss_weight,
    )
    return model, opened.processor, opened.report


def _system_of(config: TrainingConfig) -> str | None:
    """The system to build; None leaves it to a checkpoint that has one, where the command line does not say."""
    if "model_key" in config.given:
        return config.model_key
    stored = read_config(find_model(config.version, "--version"))
    has_system = stored.get("model_type") == GroundingConfig.model_type or architecture.is_reference(stored)
    return None if has_system else config.model_key


def _check_model(model_config: GroundingConfig, config: TrainingConfig) -> None:
    """Flags that repeat what the model says must agree with it, and its settings must allow what the flags ask for."""
    if config.attn_implementation == FLASH_ATTENTION and model_config.pad_train_clip_images:
        raise UserError(
            f"--attn_implementation {FLASH_ATTENTION}: {config.version} pads its CLIP images, and flash-attn cannot "
            "mask padding; leave it out, or pass --no_pad_train_clip_images"
        )
    if config.num_layers is not None and config.num_layers != model_config.num_layers:
        raise UserError(
            f"--num_layers {config.num_layers}: the LLM of {config.version} has {model_config.num_layers} hidden "
            "states (its layers and the embeddings); leave the flag out"
        )
    sam_size = model_config.sam_config.prompt_encoder_config.image_size
    if config.image_size is not None and config.image_size != sam_size:
        raise UserError(f"--image_size {config.image_size}: this SAM was built for {sam_size}; leave the flag out")
    if config.preprocessor_config:
        size = _preprocessor_size(Path(config.preprocessor_config))
        if size != model_config.clip_image_size:
            raise UserError(
                f"{config.preprocessor_config} makes images of {size} pixels, but the CLIP tower takes "
                f"{model_config.clip_image_size}; pass --resize_vision_tower --resize_vision_tower_size {size}, "
                "or the file that fits the tower"
            )
    if config.layer is not None and config.layer.isdigit() and int(config.layer) >= model_config.num_layers:
        raise UserError(f"--layer {config.layer} is outside 0..{model_config.num_layers - 1}")


def _preprocessor_size(path: Path) -> int:
    """The side in pixels of the images that a CLIP image-processor file makes."""
    try:
        size = read_json(path, missing="it belongs to a CLIP model")["size"]
        return int(size["shortest_edge"] if isinstance(size, dict) else size)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a CLIP image-processor file with a size ({error!r})") from None


def add_adapters_and_freeze(model: GroundingModel, config: TrainingConfig) -> None:
    """LoRA on the LLM, and `requires_grad` of the trained parameters."""
    if config.lora_r > 0:
        targets = [name.strip() for name in config.lora_target_modules.split(",")]
        add_lora(model, r=config.lora_r, alpha=config.lora_alpha, dropout=config.lora_dropout, targets=targets)
    prefixes = trainable_prefixes(
        model,
        lora_r=config.lora_r,
        train_mask_decoder=config.train_mask_decoder,
        flags=config,
        unfreeze=config.parts_to_unfreeze,
    )
    set_trainable(model, prefixes)


def cache_features(model: GroundingModel, config: TrainingConfig) -> list[str]:
    """Let frozen encoders take their features from `--cache_features`; returns the lines to print."""
    if not config.cache_features:
        return []
    names = model.cache_features(FeatureCache(config.cache_features, int(config.cache_limit_gb * 1e9)))
    if not names:
        raise UserError("--cache_features: CLIP and SAM's encoder are both trained (--unfreeze); their features change")
    return [f"features of {' and '.join(names)} are kept in {config.cache_features}"]


def check_fast_decode(backbone: str, processor: GroundingProcessor) -> None:
    """Raises `UserError` where the backbone cuts images into tiles, which it chooses by their size."""
    _, geometry = processor.backbone_images(np.zeros((64, 64, 3), np.uint8))
    if geometry.is_tiled:
        raise UserError(
            f"--fast_decode: {backbone} cuts an image into tiles by its size, so that one of fewer pixels is another "
            "image to it; leave the flag out"
        )


def build_validation(config: TrainingConfig, device: torch.device) -> Validation:
    """The validation splits, opened; their images are read by as many processes as those of training."""
    return Validation(
        config.val_splits,
        config.dataset_dir,
        answer=config.answer,
        layer=config.layer,
        batch_size=config.val_batch_size,
        limit=config.val_limit or None,
        workers=worker_count(config.workers, device),
        tolerance=Tolerance(config.skip_bad_samples),
        bad_samples_file=None if config.dry_run else config.bad_samples_file,
    )


def build(launch: Launch) -> Built:
    """Read the data, then build the model and the engine around it, and print what will be trained and how."""
    config, world, say = launch.config, launch.world, launch.say
    schedule = schedule_of(config, world)
    checkpoint = None if config.dry_run else checkpoint_to_resume(config, config.run_dir, world)
    if checkpoint is not None:
        config = launch.config = keep_gate(config, checkpoint)

    # Data first: its errors come sooner.
    say(f"\nreading {config.dataset_dir}, then {config.version}")
    validation = launch.validation
    mixture = build_data(config, schedule)
    model, processor, report = build_model(config, precision=launch.precision)
    processor.identifies_images = bool(config.cache_features)
    if config.fast_decode:
        check_fast_decode(model.config.backbone, processor)
    say(report.whole() if config.debug else str(report))
    add_adapters_and_freeze(model, config)
    settings = describe_run(config, model, launch.precision, world)
    changes = describe_changes(checkpoint, read_settings(checkpoint), settings) if checkpoint is not None else []
    for lines in (
        describe_data(mixture, schedule.samples_per_epoch, validation.sizes() if validation else {}),
        describe_parameters(count_parameters(model)),
        describe_training(config, schedule, world, launch.precision, width=launch.width),
        changes,
        cache_features(model, config),
    ):
        if lines:
            say("\n".join(lines))
    if config.compile:
        model.compile_encoders()
    engine = engine_of(model, config, world, launch.precision)

    workers = worker_count(config.workers, world.device)
    read_ahead = workers * PREFETCHED * expected_batch_bytes(config, processor)
    for line in shared_memory_warning(read_ahead, processes=world.size_of_machine):
        say(line)
    return Built(
        engine=engine,
        processor=processor,
        mixture=mixture,
        collator=Collator(processor, packed=config.pack, max_length=config.model_max_length),
        schedule=schedule,
        validation=validation,
        meter=StepMeter(model.config.num_layers, world.device, [family.name for family in mixture.families]),
        settings=settings,
        checkpoint=checkpoint,
        workers=workers,
    )
