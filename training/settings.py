"""What training can be told, by subject: the settings that are not those of a model or of the data.

Names, defaults and meaning are the reference implementation's. A setting that is None or stored with a model comes from
the checkpoint that `--version` names, and only what is given overrides it. Nothing heavy is imported.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from groundscore.errors import UserError
from model.systems import SYSTEMS
from model.systems.base import LAYER_RULES
from training.trainable import unfreezable
from utils.settings import FIXED, FRACTION, FREE, RANKING, Rule, above, at_least, option
from utils.trackers import NONE, TRACKERS, tracker_names

FLASH_ATTENTION = "flash_attention_2"


@dataclass
class FileSettings:
    """Settings that come from files."""

    recipe: str = option(
        "",
        "files",
        "a published run: the name of a file below scripts/recipes; --config and flags win",
        on_resume=FREE,
        common=True,
    )
    config: str = option(
        "",
        "files",
        "settings from a YAML file, as every run writes (config.yaml); flags win",
        on_resume=FREE,
        common=True,
    )
    print_flags: bool = option(
        False,
        "files",
        "print the flags that recipe, file and command line come to, and stop",
        names=("print_flags",),
        on_resume=FREE,
    )


@dataclass
class BaseSettings:
    """The base model, its precision and what must agree with it."""

    model_key: str = option(
        "UGround", "model", "system to train, in any case: " + ", ".join(SYSTEMS), on_resume=FIXED, common=True
    )
    version: str = option(
        "liuhaotian/llava-llama-2-13b-chat-lightning-preview",
        "model",
        "base LLaVA directory, or a merged directory of this project (which contains everything below)",
        common=True,
    )
    vision_tower: str | None = option(None, "model", "CLIP directory", default_text="what --version names", common=True)
    vision_pretrained: str | None = option(
        None,
        "model",
        "SAM, SAM-HQ, SAM 2.1 or SAM 3, which tells the mask decoder: a directory of transformers, its hub id, or the "
        "authors' .pth or .pt file (not of SAM 3)",
        common=True,
    )
    weight: str | None = option(
        None, "model", "consolidated training file of the reference, --version being the base it was trained from"
    )
    precision: str | None = option(
        None,
        "model",
        "weights and arithmetic",
        default_text="bf16 on a GPU, fp32 on a CPU",
        choices=("fp32", "bf16", "fp16"),
        on_resume=FIXED,
    )
    attn_implementation: str = option(
        "sdpa",
        "model",
        "attention of the LLM; flash_attention_2 needs --plain_rows and centre-cropped CLIP images",
        choices=("sdpa", FLASH_ATTENTION),
    )
    image_size: int | None = option(
        None, "model", "longest side of the image given to SAM", default_text="what SAM was built for", on_resume=FREE
    )
    model_max_length: int = option(
        2048,
        "model",
        "longest row in tokens; a conversation that does not fit is dropped and counted, never cut",
        check=at_least(1),
    )
    num_layers: int | None = option(
        None,
        "model",
        "number of hidden states; read from the model, and checked against it if given",
        on_resume=FREE,
    )
    preprocessor_config: str | None = option(
        None, "model", "CLIP image-processor JSON; its size must be the one that the tower takes", on_resume=FREE
    )
    strategy: str = option("policy_walker", "policy", "how a layer is chosen", choices=("policy_walker",))

    def check(self: Any) -> None:
        """Raise `UserError` for flash-attn beside what it cannot express."""
        if self.attn_implementation != FLASH_ATTENTION:
            return
        flag = f"--attn_implementation {FLASH_ATTENTION}"
        if self.pack:
            raise UserError(
                f"{flag}: flash-attn cannot express packed rows; leave it out (packed rows with sdpa are the fast "
                "way), or add --plain_rows"
            )
        if self.pad_train_clip_images:
            raise UserError(
                f"{flag}: flash-attn cannot mask the padding of --pad_train_clip_images; leave out one of the two"
            )
        if self.device == "cpu" or self.precision == "fp32":
            other = "--device cpu" if self.device == "cpu" else "--precision fp32"
            raise UserError(f"{flag}: flash-attn runs on GPUs in bf16 or fp16; leave it out, or {other}")


@dataclass
class LoadingSettings:
    """Where the data are and how they are loaded; what is drawn from them `dataloaders/settings.py` declares."""

    dataset_dir: str = option("./dataset", "data", "root of all data sets", common=True)
    pack: bool = option(True, "data", "conversations about one image share a row", names=("pack", "plain_rows"))
    workers: int | None = option(
        None,
        "data",
        "data-loading processes per rank; 0 loads in the main process",
        default_text="4 on a GPU, 1 on a CPU",
        aliases=("num_workers",),
        on_resume=FREE,
        check=at_least(0),
    )
    cache_features: str = option(
        "",
        "data",
        "directory for the outputs of frozen encoders (SAM, CLIP), so that later epochs skip these",
        on_resume=FREE,
    )
    cache_limit_gb: float = option(
        100.0,
        "data",
        "maximum size of that directory; least recently used files are removed first",
        on_resume=FREE,
        check=above(0),
    )


@dataclass
class OptimisationSettings:
    """Steps, batch, optimizer and losses."""

    epochs: int = option(20, "training", "epochs", check=at_least(1), common=True)
    steps_per_epoch: int = option(500, "training", "optimizer steps per epoch", check=at_least(1), common=True)
    batch_size: int = option(2, "training", "images per process and micro-batch", check=at_least(1), common=True)
    grad_accumulation_steps: int = option(
        10, "training", "micro-batches per optimizer step", check=at_least(1), common=True
    )
    lr: float = option(3e-4, "training", "highest learning rate", check=above(0), common=True)
    warmup_min_lr: float = option(0.0, "training", "learning rate at the start of the warm-up", check=at_least(0))
    warmup_num_steps: int = option(
        100, "training", "optimizer steps of linear warm-up, then linear decay to 0", check=at_least(0)
    )
    optimizer: str = option(
        "adamw",
        "training",
        "muon trains the weights of linear layers by Muon, all others by AdamW: fewer steps for small models from "
        "nothing; in fp32 and without ZeRO",
        choices=("adamw", "muon"),
        on_resume=FIXED,
    )
    beta1: float = option(0.9, "training", "AdamW", check=FRACTION)
    beta2: float = option(0.95, "training", "AdamW", check=FRACTION)
    zero_stage: int = option(
        2,
        "training",
        "DeepSpeed ZeRO stage: what is partitioned among processes: 0 nothing, 1 optimizer states, 2 also "
        "gradients, 3 also weights",
        choices=(0, 1, 2, 3),
    )
    gradient_checkpointing: bool = option(True, "training", "recompute the LLM's activations: less memory, slower")
    compile: bool = option(
        False, "training", "torch.compile the encoders: slower to start, then faster", names=("compile",)
    )
    seed: int = option(42, "training", "seed of data, weights and policy")
    ce_loss_weight: float = option(1.0, "training", "weight of the language loss", check=at_least(0))
    bce_loss_weight: float = option(2.0, "training", "weight of the mask cross-entropy", check=at_least(0))
    dice_loss_weight: float = option(0.5, "training", "weight of the mask Dice loss (recipes: 4)", check=at_least(0))
    policy_loss_weight: float = option(0.4, "training", "weight of the policy loss", check=at_least(0))

    def check(self: Any) -> None:
        """Raise `UserError` for settings that leave nothing to train, or that ranks cannot share."""
        if self.zero_stage == 3 and self.cache_features:
            raise UserError(
                "--cache_features: with --zero_stage 3 all processes call an encoder together or none does, and what "
                "is cached differs among them; leave one of the two out"
            )
        if self.optimizer == "muon" and self.zero_stage:
            raise UserError("--optimizer muon takes matrices as a whole, which ZeRO cuts up: add --zero_stage 0")
        if self.start_epoch >= self.epochs:
            raise UserError(f"--start_epoch {self.start_epoch}: nothing is left of --epochs {self.epochs}")


@dataclass
class TrainableSettings:
    """Which parameters are trained."""

    train_mask_decoder: bool = option(True, "trainable part", "train SAM's mask decoder", on_resume=FIXED)
    unfreeze: str = option(
        "", "trainable part", "also train, comma list of: " + ", ".join(unfreezable()), on_resume=FIXED
    )

    def check(self: Any) -> None:
        """Raise `UserError` for parts that do not exist, and for LoRA beside a whole LLM that is trained."""
        for part in self.parts_to_unfreeze:
            if part not in unfreezable():
                raise UserError(f"--unfreeze {part}: unknown part; choose from {', '.join(unfreezable())}")
        if "language_model" in self.parts_to_unfreeze and self.lora_r > 0:
            raise UserError("--unfreeze language_model trains the whole LLM: add --lora_r 0, which leaves LoRA out")


@dataclass
class ValidationSettings:
    """Validation while training, and `--eval_only`."""

    val_dataset: str = option(
        "ReasonSeg|val",
        "evaluation",
        "name|split or name|splitBy|split, several joined by ||; the first selects",
        on_resume=RANKING,
        common=True,
    )
    val_batch_size: int = option(1, "evaluation", "images per batch", on_resume=FREE, check=at_least(1))
    val_limit: int = option(
        0, "evaluation", "score the first N images of a split only; 0: all", on_resume=RANKING, check=at_least(0)
    )
    answer: str = option(
        "given",
        "evaluation",
        "score given answers or the model's own",
        choices=("given", "generated"),
        on_resume=RANKING,
    )
    layer: str | None = option(
        None,
        "evaluation",
        "last, greedy, mixture, sample or an index",
        default_text="the checkpoint's",
        check=Rule(f"{', '.join(LAYER_RULES)} or an index", lambda value: value in LAYER_RULES or value.isdigit()),
        on_resume=RANKING,
    )
    eval_interval: int = option(
        0,
        "evaluation",
        "optimizer steps between evaluations; 0 at the end of an epoch",
        on_resume=FREE,
        check=at_least(0),
    )
    no_eval: bool = option(False, "evaluation", "train without evaluation", names=("no_eval",), on_resume=FREE)
    eval_only: bool = option(False, "evaluation", "evaluate and stop", names=("eval_only",), on_resume=FREE)

    def check(self: Any) -> None:
        """Raise `UserError` for splits that are not written as such, and flags that exclude each other."""
        for split in self.val_splits:
            if split.count("|") not in (1, 2) or not all(split.split("|")):
                raise UserError(f"--val_dataset {split}: expected name|split or name|splitBy|split")
        if not self.val_splits and not self.no_eval:
            raise UserError("--val_dataset is empty: name a split, or pass --no_eval")
        if self.no_eval and self.eval_only:
            raise UserError("--no_eval and --eval_only contradict each other")


@dataclass
class RunSettings:
    """The run on disk, its checkpoints and the machine."""

    log_base_dir: str = option("./runs", "run", "directory of all runs", on_resume=FREE, common=True)
    exp_name: str = option("", "run", "name of the run", default_text="the model key", on_resume=FREE, common=True)
    print_freq: int = option(
        1, "run", "optimizer steps between lines and points of curves", on_resume=FREE, check=at_least(1)
    )
    tracker: str = option(
        "tensorboard",
        "run",
        f"what shows the curves and images, joined by commas: {', '.join(TRACKERS)}; or {NONE}",
        on_resume=FREE,
    )
    tracker_project: str = option("uground", "run", "project or experiment of the run in its trackers", on_resume=FREE)
    tracker_online: bool = option(
        False,
        "run",
        "trackers send to their servers, with the account that is logged in; else all stays in the run's directory",
        on_resume=FREE,
    )
    print_style: str = option("line", "run", "a line or a block per report", choices=("line", "block"), on_resume=FREE)
    memo: str = option("", "run", "a note on this launch, for memo.log of the run", on_resume=FREE)
    dry_run: bool = option(
        False,
        "run",
        "build everything, train a step on the largest batch, report the memory and time of the run, and stop",
        names=("dry_run",),
        on_resume=FREE,
        common=True,
    )
    save_ckpt: bool = option(True, "run", "also keep the latest checkpoint, not only the best", on_resume=FREE)
    save_minutes: float = option(
        15.0,
        "run",
        "minutes between latest checkpoints, written while training continues; a kill loses at most about that much "
        "(0: only every --save_interval steps, when asked to stop, and at the end)",
        on_resume=FREE,
        check=at_least(0),
    )
    save_interval: int = option(0, "run", "also save every N optimizer steps", on_resume=FREE, check=at_least(0))
    keep: int = option(1, "run", "latest checkpoints to keep", on_resume=FREE, check=at_least(1))
    resume: str = option("", "run", "checkpoint directory to resume from", on_resume=FREE)
    auto_resume: bool = option(
        True,
        "run",
        "resume from this run's checkpoint if there is one; if off, an earlier run is moved aside to <exp_name>.1",
        names=("auto_resume", "no_resume"),
        on_resume=FREE,
    )
    resume_from_best: bool = option(
        False,
        "run",
        "resume automatically from the best instead of the latest checkpoint",
        names=("resume_from_best",),
        on_resume=FREE,
    )
    deterministic: bool = option(
        False,
        "run",
        "torch's deterministic algorithms: slower on a GPU, but reproducible; a CPU is deterministic anyway",
        names=("deterministic",),
    )
    skip_nonfinite: int = option(
        0,
        "run",
        "steps of the run that may be skipped because a loss or gradient is not finite; 0 stops at the first",
        check=at_least(0),
    )
    collective_timeout: float = option(
        1800.0,
        "run",
        "seconds that a process waits for other processes, or for data, before it gives up",
        on_resume=FREE,
        check=at_least(1),
    )
    start_epoch: int = option(0, "run", "first epoch if nothing is resumed", on_resume=FREE, check=at_least(0))
    device: str = option("auto", "run", "device to run on", choices=("auto", "cpu", "cuda"), common=True)
    local_rank: int = option(0, "run", "set by launchers", on_resume=FREE)
    debug: bool = option(False, "run", "show tracebacks", names=("debug",), on_resume=FREE)

    def check(self: Any) -> None:
        """Raise `UserError` for a name that is no directory of its own, flags that exclude each other, and trackers
        that are unknown or not installed."""
        tracker_names(self.tracker)
        if self.save_interval and not self.save_ckpt:
            raise UserError("--save_interval is about the latest checkpoint, which --no_save_ckpt leaves out")
        if self.dry_run and self.eval_only:
            raise UserError("--dry_run is about training; leave --eval_only out")
        name = PurePath(self.run_name)
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise UserError(f"--exp_name {self.exp_name}: a name below --log_base_dir is needed")


def split_list(text: str) -> list[str]:
    """The parts of a value that is joined by ||."""
    return [part for part in text.split("||") if part]
