"""What the miniature's experiments start: training from the shipped base, and scoring what came of it.

The options are those of `miniature.compare`, `.ablation` and `.benchmarks`.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError
from miniature.sizes import BACKBONES
from model.systems import SYSTEMS

RECIPE = """--dataset refer_seg||reason_seg --sample_rates 1,1 --explanatory -1 --num_classes_per_sample 4
    --no_gradient_checkpointing --lora_r 8 --lora_dropout 0 --lr 1e-3 --warmup_num_steps 20
    --ce_loss_weight 3 --dice_loss_weight 4 --grad_accumulation_steps 1 --print_freq 5 --no_eval"""


def parts_of(base: Path, decoder: Path | None = None) -> tuple[str, Path]:
    """Returns the name of a base's backbone and the weights of its mask decoder; `UserError` where it is no base.

    decoder: weights that take the place of the base's own.
    """
    backbones = [name for name in BACKBONES if (base / name).is_dir()]
    decoders = sorted(base.glob("*_miniature*"))
    if len(backbones) != 1 or len(decoders) != 1:
        raise UserError(
            f"{base} is not a base: it should have one of {', '.join(BACKBONES)} and one mask decoder (*_miniature*), "
            f"and has {', '.join(backbones + [path.name for path in decoders]) or 'neither'}"
        )
    return backbones[0], decoder or decoders[0]


def pair_of(base: Path, decoder: Path | None = None) -> str:
    """Returns what tells results of different bases apart: "llava+sam", the names of the two parts."""
    backbone, weights = parts_of(base, decoder)
    return f"{backbone}+{weights.name.partition('_miniature')[0]}"


def base_flags(base: Path, decoder: Path | None = None) -> list[str]:
    """Returns the flags by which a training starts from a base; the arguments are those of `parts_of`."""
    backbone, weights = parts_of(base, decoder)
    flags = ["--version", str(base / backbone), "--vision_pretrained", str(weights)]
    if backbone == "llava":
        flags += ["--vision_tower", str(base / "clip"), "--pad_train_clip_images"]
    return flags


def training_command(
    options: argparse.Namespace, run: Path, *, base: Path, system: str, steps: int, epochs: int, flags: str
) -> list[str]:
    """Returns the command that trains `system` from `base` in the directory `run`. flags: beyond `RECIPE`."""
    launcher = [sys.executable]
    if options.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.processes}"]
    command = [
        *launcher,
        "train_ds.py",
        *base_flags(base, options.decoder),
        *("--dataset_dir", options.dataset_dir),
        *("--model_key", system, "--exp_name", run.name, "--log_base_dir", run.parent, "--device", options.device),
        *("--batch_size", options.batch_size // options.processes, "--steps_per_epoch", steps, "--epochs", epochs),
        *("--cache_features", options.runs / "features"),  # one cache for all runs: their encoders are the base's
        *RECIPE.split(),
        *flags.split(),
    ]
    return [str(part) for part in command]


def scoring_command(
    options: argparse.Namespace, run: Path, report: Path, *, splits: str, answer: str = "generated"
) -> list[str]:
    """Returns the command that scores a run on the first `options.limit` images of each split. report: the .json file
    to write."""
    command = [
        *(sys.executable, "eval.py", "--version", run, "--dataset_dir", options.dataset_dir),
        *("--val_dataset", splits, "--answer", answer, "--limit", options.limit),
        *("--val_batch_size", 16, "--max_new_tokens", 64, "--device", options.device, "--output", report),
    ]
    return [str(part) for part in command]


def audit_command(options: argparse.Namespace, run: Path, page: Path, *, splits: str) -> list[str]:
    """Returns the command that audits a run on the first `options.limit` images of each split. page: to write."""
    command = [
        *(sys.executable, "-m", "evaluation.audit", "--version", run, "--dataset_dir", options.held_out),
        *("--val_dataset", splits, "--answer", "both", "--limit", options.limit, "--val_batch_size", 16),
        *("--max_new_tokens", 64, "--redraw_rates", "0.2,0.4", "--device", options.device, "--output", page),
    ]
    return [str(part) for part in command]


def start(what: str, command: Sequence[str], log: Path | None = None) -> None:
    """Run a command to its end, what it prints behind what `log` has; raises `UserError` where it fails."""
    if log is None:
        code = subprocess.run(command, check=False).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            code = subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        raise UserError(f"{what} ended with code {code}; what it printed is {f'in {log}' if log else 'above'}")


def chosen_systems(names: str) -> list[str]:
    """The systems of a list joined by commas, in any case, in the order of `SYSTEMS`."""
    wanted = {name.strip().lower() for name in names.split(",")}
    unknown = wanted - {name.lower() for name in SYSTEMS}
    if unknown:
        raise UserError(f"--systems: there is no {', '.join(sorted(unknown))}; choose from {', '.join(SYSTEMS)}")
    return [name for name in SYSTEMS if name.lower() in wanted]
