"""What `train_ds.py` can be told: one dataclass is the flags, their defaults and their help.

Names, defaults and meaning are the reference implementation's. Where a default is None the value comes from the
checkpoint that `--version` names, and only what is given on the command line overrides it.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.systems import SYSTEMS

FLASH_ATTENTION = "flash_attention_2"
UNFREEZABLE = ("vision_tower", "sam_encoder", "mm_projector", "image_feature_neck", "language_model")


# What it means that a run goes on from a checkpoint with another value of a flag:
FREE = "free"  # no number of the run depends on it; not worth a word
SAID = "said"  # training goes on otherwise than it would have
RANKING = "ranking"  # as SAID, and scores from before do not compare with those from now on
FIXED = "fixed"  # what the checkpoint holds has no meaning with another value; refused


def option(default: Any, group: str, help: str, *, on_resume: str = SAID, **extra) -> Any:
    """A field of `TrainingConfig` that is a flag; `extra` holds choices, names of the flag pair, or the type.

    inference: `eval.py`, `chat.py`, `app.py` and merging have the flag too; there it overrides the checkpoint.
    """
    return field(default=default, metadata={"group": group, "help": help, "on_resume": on_resume, **extra})


@dataclass
class TrainingConfig:
    """Everything that `train_ds.py` can be told. `given` names the flags that stood on the command line."""

    model_key: str = option(
        "UGround", "model", "which system to train, in any case: " + ", ".join(SYSTEMS), on_resume=FIXED
    )
    version: str = option(
        "liuhaotian/llava-llama-2-13b-chat-lightning-preview",
        "model",
        "base LLaVA directory, or a merged directory of this project (which holds everything below)",
    )
    vision_tower: str | None = option(None, "model", "CLIP directory (default: what --version names)")
    vision_pretrained: str | None = option(
        None, "model", "SAM: an original sam_vit_{b,l,h} .pth file or a transformers directory"
    )
    weight: str | None = option(
        None, "model", "consolidated training file of the reference, --version being the base it was trained from"
    )
    precision: str | None = option(
        None,
        "model",
        "weights and arithmetic (default: bf16 on a GPU, fp32 on a CPU)",
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
        None, "model", "longest side of the image that SAM sees (default: what SAM was built for)", on_resume=FREE
    )
    model_max_length: int = option(
        2048, "model", "longest row in tokens; a conversation that does not fit is dropped and counted, never cut"
    )
    num_layers: int | None = option(
        None,
        "model",
        "hidden states to choose from; read from the model, and checked against it where given",
        on_resume=FREE,
    )
    conv_type: str | None = option(
        None,
        "model",
        "conversation template: the system text speaks of a human (llava_v1) or a user (vicuna_v1) (default llava_v1)",
        choices=("llava_v1", "vicuna_v1"),
        inference=True,
    )
    out_dim: int | None = option(None, "model", "width of SAM's prompts (default: SAM's)", on_resume=FIXED)
    seg_token_num: int | None = option(
        None, "model", "tokens per target and scale (PixelLM; otherwise 1)", on_resume=FIXED
    )
    image_feature_scale_num: int | None = option(
        None, "model", "image feature scales (PixelLM; otherwise 1)", on_resume=FIXED
    )
    vision_tower_for_mask: bool | None = option(
        None, "model", "decode masks from CLIP's features (PixelLM)", on_resume=FIXED
    )
    separate_mm_projector: bool | None = option(None, "model", "a second projector for the mask path", on_resume=FIXED)
    pad_train_clip_images: bool | None = option(None, "model", "CLIP sees the whole image, padded, not its centre")
    resize_vision_tower: bool | None = option(None, "model", "interpolate CLIP's position embeddings", on_resume=FIXED)
    resize_vision_tower_size: int | None = option(
        None,
        "model",
        "side in pixels after resizing; a value other than 224 also trains the projectors",
        on_resume=FIXED,
    )
    llm_image_grid: int | None = option(
        None, "model", "image tokens of the LLM along a side (default: CLIP's; original PixelLM has 16)"
    )
    read_num_points: int | None = option(None, "model", "READ: most points per target (default 60)", inference=True)
    read_t_pos: float | None = option(
        None, "model", "READ: similarity from which a point is positive (default 0.8)", inference=True
    )
    read_t_neg: float | None = option(
        None, "model", "READ: similarity up to which one is negative (default 0.2)", inference=True
    )
    read_down_sample: int | None = option(
        None,
        "model",
        "READ: how much coarser than the image tokens the points' grid is (default 1)",
        inference=True,
    )
    read_point_space: str | None = option(
        None,
        "model",
        "READ: points are refined on that grid, or in pixels as READ's own code does (default grid)",
        choices=("grid", "pixel"),
        inference=True,
    )
    preprocessor_config: str | None = option(
        None, "model", "CLIP image-processor JSON; its size must be the one that the tower takes", on_resume=FREE
    )

    strategy: str = option("policy_walker", "policy", "how a layer is chosen", choices=("policy_walker",))
    mode: int | None = option(
        None,
        "policy",
        "1 last layer, 2 sampled layer for the map, 3 sampled layer for map and text (default 3)",
        choices=(1, 2, 3),
    )
    gate: str | None = option(
        None,
        "policy",
        "what the policy sees: normalized states, or the reference's raw ones, which learn faster the wider the LLM is "
        "(default: normalized for a policy that starts here, otherwise the checkpoint's)",
        choices=("normalized", "reference"),
    )
    policy_lr: float | None = option(
        None,
        "policy",
        "highest learning rate of the policy's gate: with --gate normalized the most by which a step changes a layer's "
        "logit (default 0.1; with --gate reference that of --lr)",
    )
    estimator: str | None = option(
        None,
        "policy",
        "layers of a target whose maps are scored: the sampled one, several, or all (default leave_one_out; sample "
        "where --baseline_type or --reward batch is given)",
        choices=("sample", "leave_one_out", "expected"),
    )
    policy_samples: int | None = option(None, "policy", "layers per target that leave_one_out scores (default 4)")
    baseline_type: str | None = option(
        None,
        "policy",
        "what estimator sample compares the reward with (default ema)",
        choices=("ema", "critic", "none"),
    )
    baseline_beta: float | None = option(None, "policy", "weight of the critic's regression (default 1.0)")
    reward: str | None = option(
        None,
        "policy",
        "a reward per target, or the reference's one per micro-batch (default target)",
        choices=("target", "batch"),
    )
    entropy_weight: float = option(0.0, "policy", "weight of the policy's entropy bonus at the first step")
    entropy_weight_end: float | None = option(
        None, "policy", "its weight at the last step, on a straight line (default: as at the first)"
    )
    eval_legacy: bool | None = option(
        None, "policy", "outside training use the last layer, whatever was learned", on_resume=RANKING
    )
    map_geometry: str | None = option(
        None,
        "policy",
        "where the similarity map is placed: where CLIP looked, or always as for padded CLIP input (default fit)",
        choices=("fit", "reference"),
        inference=True,
    )
    mask_prompt: bool | None = option(None, "policy", "prompt SAM with the similarity map (default on)")
    map_loss: bool | None = option(None, "policy", "train the similarity map against the mask (default on)")
    map_loss_layers: str | None = option(
        None,
        "policy",
        "which maps that loss trains: the chosen layer's, or those of all layers alike (default chosen)",
        choices=("chosen", "all"),
    )

    dataset: str = option(
        "sem_seg||refer_seg||neg_refer_seg||correct_refer_seg||vqa||reason_seg||reason_seg_plus||multi_reason_seg",
        "data",
        "families to train on, joined by ||; beside these there is custom, your own data",
    )
    sample_rates: str = option("12,9,3,3,3,3,3,3", "data", "one weight per family")
    sem_seg_data: str = option("ade20k||cocostuff||pascal_part||paco_lvis||mapillary", "data", "semantic sets")
    refer_seg_data: str = option(
        "refclef||refcoco||refcoco+||refcocog||refzom||grefcoco", "data", "referring-expression sets"
    )
    neg_refer_seg_data: str = option("R-refcoco||R-refcoco+||R-refcocog", "data", "sets with false premises")
    correct_refer_seg_data: str = option("fprefcoco||fprefcoco+||fprefcocog", "data", "sets with corrections")
    vqa_data: str = option("llava_instruct_150k", "data", "question-answering set")
    reason_seg_data: str = option("ReasonSeg|train", "data", "reasoning set and split")
    reason_seg_plus_data: str = option("instance_seg||cot||conversations||caption", "data", "LISA++ parts")
    multi_reason_seg_data: str = option("MultiReasonSeg|train", "data", "MUSE set and split")
    custom_data: str = option("", "data", "files of custom/ without .jsonl, joined by ||")
    dataset_dir: str = option("./dataset", "data", "root of all data sets")
    explanatory: float = option(0.1, "data", "probability of an explaining answer in ReasonSeg; -1 never")
    num_classes_per_sample: int = option(3, "data", "expressions drawn per image")
    num_classes_per_question: int = option(1, "data", "expressions asked for in one question")
    negative_sampling_weight: float = option(-1.0, "data", "semantic sets: share of absent classes; -1 none")
    use_expand_question_list: bool = option(False, "data", "more question templates")
    exclude_val: bool = option(
        False,
        "data",
        "leave out the pictures that the referring sets in use have in other splits, in every family",
    )
    skip_bad_samples: float = option(
        0.01,
        "data",
        "share of entries without a usable image or mask to leave out and list in the run's bad_samples.jsonl; 0 stops "
        "at the first",
    )
    pack: bool = option(
        True, "data", "conversations about one image share a row, or have a row each", names=("pack", "plain_rows")
    )
    workers: int | None = option(
        None,
        "data",
        "data-loading processes per rank (default 4 on a GPU, 1 on a CPU; 0 loads in the main process)",
        aliases=("num_workers",),
        on_resume=FREE,
    )
    cache_features: str = option(
        "",
        "data",
        "directory to keep what frozen encoders (SAM, CLIP) compute in, so that later epochs skip them",
        on_resume=FREE,
    )
    cache_limit_gb: float = option(
        100.0, "data", "size of that directory; what was used least recently goes first", on_resume=FREE
    )

    epochs: int = option(20, "training", "epochs")
    steps_per_epoch: int = option(500, "training", "optimizer steps per epoch")
    batch_size: int = option(2, "training", "images per process and micro-batch")
    grad_accumulation_steps: int = option(10, "training", "micro-batches per optimizer step")
    lr: float = option(3e-4, "training", "highest learning rate")
    warmup_min_lr: float = option(0.0, "training", "learning rate at the start of the warm-up")
    warmup_num_steps: int = option(100, "training", "optimizer steps of linear warm-up, then linear decay to 0")
    beta1: float = option(0.9, "training", "AdamW")
    beta2: float = option(0.95, "training", "AdamW")
    zero_stage: int = option(
        2,
        "training",
        "DeepSpeed ZeRO: what processes share: 0 nothing, 1 optimizer, 2 gradients too, 3 weights too",
        choices=(0, 1, 2, 3),
    )
    gradient_checkpointing: bool = option(True, "training", "recompute the LLM's activations: less memory, slower")
    compile: bool = option(
        False, "training", "torch.compile the encoders: slower to start, then faster", names=("compile",)
    )
    seed: int = option(42, "training", "draws of data, weights and policy follow from it")
    ce_loss_weight: float = option(1.0, "training", "weight of the language loss")
    bce_loss_weight: float = option(2.0, "training", "weight of the mask cross-entropy")
    dice_loss_weight: float = option(0.5, "training", "weight of the mask Dice loss (recipes: 4)")
    policy_loss_weight: float = option(0.4, "training", "weight of the policy loss")

    lora_r: int = option(8, "trainable part", "LoRA rank; 0 trains the whole LLM", on_resume=FIXED)
    lora_alpha: int = option(16, "trainable part", "LoRA scale times rank", on_resume=FIXED)
    lora_dropout: float = option(0.05, "trainable part", "LoRA dropout")
    lora_target_modules: str = option(
        "q_proj,v_proj", "trainable part", "linear layers of the LLM with LoRA", on_resume=FIXED
    )
    train_mask_decoder: bool = option(True, "trainable part", "train SAM's mask decoder", on_resume=FIXED)
    train_fusion: bool = option(
        False,
        "trainable part",
        "train PixelLM's weights of tokens and scales",
        names=("train_fusion",),
        on_resume=FIXED,
    )
    unfreeze: str = option(
        "", "trainable part", "also train, comma list of: " + ", ".join(UNFREEZABLE), on_resume=FIXED
    )

    val_dataset: str = option(
        "ReasonSeg|val",
        "evaluation",
        "name|split or name|splitBy|split, several joined by ||; the first selects",
        on_resume=RANKING,
    )
    val_batch_size: int = option(1, "evaluation", "images at a time", on_resume=FREE)
    val_limit: int = option(0, "evaluation", "score the first so many images of a split only; 0 all", on_resume=RANKING)
    answer: str = option(
        "given",
        "evaluation",
        "score on given answers or on the model's own",
        choices=("given", "generated"),
        on_resume=RANKING,
    )
    layer: str | None = option(
        None, "evaluation", "last, greedy, mixture, sample or an index (default: the checkpoint's)", on_resume=RANKING
    )
    eval_interval: int = option(
        0, "evaluation", "optimizer steps between evaluations; 0 at the end of an epoch", on_resume=FREE
    )
    no_eval: bool = option(False, "evaluation", "train without evaluation", names=("no_eval",), on_resume=FREE)
    eval_only: bool = option(False, "evaluation", "evaluate and stop", names=("eval_only",), on_resume=FREE)

    log_base_dir: str = option("./runs", "run", "where runs are kept", on_resume=FREE)
    exp_name: str = option("", "run", "name of the run (default: the model key)", on_resume=FREE)
    print_freq: int = option(1, "run", "optimizer steps between lines and TensorBoard points", on_resume=FREE)
    print_style: str = option("line", "run", "a line or a block per report", choices=("line", "block"), on_resume=FREE)
    memo: str = option("", "run", "a note on this launch, for memo.log of the run", on_resume=FREE)
    dry_run: bool = option(
        False,
        "run",
        "build everything, train a step on the largest batch, say what memory and time the run needs, and stop",
        names=("dry_run",),
        on_resume=FREE,
    )
    save_ckpt: bool = option(True, "run", "keep the latest checkpoint beside the best", on_resume=FREE)
    save_minutes: float = option(
        15.0,
        "run",
        "minutes between latest checkpoints, written while training goes on: what is killed loses about so many (0: "
        "only every --save_interval steps, when asked to stop, and at the end)",
        on_resume=FREE,
    )
    save_interval: int = option(0, "run", "also save every so many optimizer steps", on_resume=FREE)
    keep: int = option(1, "run", "latest checkpoints to keep", on_resume=FREE)
    resume: str = option("", "run", "checkpoint directory to go on from", on_resume=FREE)
    auto_resume: bool = option(
        True,
        "run",
        "go on from this run's checkpoint if there is one; otherwise an earlier run is moved aside to <exp_name>.1",
        names=("auto_resume", "no_resume"),
        on_resume=FREE,
    )
    resume_from_best: bool = option(
        False,
        "run",
        "automatic resume takes the best, not the latest checkpoint",
        names=("resume_from_best",),
        on_resume=FREE,
    )
    deterministic: bool = option(
        False,
        "run",
        "torch's deterministic algorithms: slower on a GPU, with the same numbers every time; a CPU has them anyway",
        names=("deterministic",),
    )
    skip_nonfinite: int = option(
        0, "run", "steps of the run that may be left out because a loss or gradient is not finite; 0 stops at the first"
    )
    collective_timeout: float = option(
        1800.0, "run", "seconds that a process waits for the others, or for data, before it gives up", on_resume=FREE
    )
    start_epoch: int = option(0, "run", "epoch to begin with where nothing is resumed", on_resume=FREE)
    device: str = option("auto", "run", "where to compute", choices=("auto", "cpu", "cuda"))
    local_rank: int = option(0, "run", "set by launchers", aliases=(), on_resume=FREE)
    debug: bool = option(False, "run", "show tracebacks", names=("debug",), on_resume=FREE)

    given: frozenset[str] = frozenset()
    plugin: str = ""  # a flag of every program (`utils/plugins.py`)

    @property
    def run_name(self) -> str:
        return self.exp_name or self.model_key

    @property
    def run_dir(self) -> Path:
        return Path(self.log_base_dir) / self.run_name

    @property
    def log_dir(self) -> Path:
        """Where this launch writes: the run, or with `--eval_only` a directory in it."""
        return self.run_dir / "eval" if self.eval_only else self.run_dir

    @property
    def bad_samples_file(self) -> Path:
        return self.log_dir / "bad_samples.jsonl"

    @property
    def families(self) -> list[str]:
        return split_list(self.dataset)

    @property
    def rates(self) -> list[float]:
        return [float(rate) for rate in self.sample_rates.split(",")]

    @property
    def val_splits(self) -> list[str]:
        return split_list(self.val_dataset)

    @property
    def parts_to_unfreeze(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.unfreeze.split(",") if part.strip())

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def entropy_weight_at(self, step: int) -> float:
        """The weight of the entropy bonus at optimizer step `step`, counted from 1."""
        if self.entropy_weight_end is None:
            return self.entropy_weight
        done = (step - 1) / max(self.total_steps - 1, 1)
        return self.entropy_weight + done * (self.entropy_weight_end - self.entropy_weight)

    def to_dict(self) -> dict[str, Any]:
        """All flags as JSON can hold them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "given"}


def split_list(text: str) -> list[str]:
    return [part for part in text.split("||") if part]
