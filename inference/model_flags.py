"""The model of a front end: the flags by which `eval.py`, `chat.py` and `app.py` name it, and loading what they name.

Nothing heavy is imported before the flags are known, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.names import did_you_mean
from groundscore.reading import user_path
from model.settings import check_overrides, inference_settings
from model.systems import find_system
from model.systems.base import LAYER_RULES
from utils.settings import add_setting


def layer_choice(text: str) -> int | str:
    """Returns one of `LAYER_RULES`, or the index of a hidden state (0 for the embeddings)."""
    if text in LAYER_RULES:
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not {', '.join(LAYER_RULES)} or an index")


def add_model_flags(parser: argparse.ArgumentParser, *, version_required: bool = True) -> None:
    """Adds the flags that say which model is loaded, how, and with which of its settings changed."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--version",
        required=version_required,
        default=argparse.SUPPRESS if version_required else None,
        metavar="DIR",
        help="checkpoint to load: a merged directory, a LLaVA base, or a training run",
    )
    group.add_argument("--model_key", metavar="SYSTEM", help="system, if the checkpoint does not name it")
    group.add_argument("--vision_tower", metavar="DIR", help="CLIP directory, for a plain LLaVA base")
    group.add_argument("--vision_pretrained", metavar="FILE", help="SAM of any kind, file or directory, for a base")
    group.add_argument(
        "--weight",
        metavar="FILE",
        help="consolidated training file of the reference, --version being the base that it was trained from",
    )
    group.add_argument("--lora_alpha", type=float, default=16, metavar="X", help="LoRA scale times rank of --weight")
    quantised = group.add_mutually_exclusive_group()
    quantised.add_argument("--load_in_8bit", action="store_true", help="quantize the LLM to 8 bit (needs bitsandbytes)")
    quantised.add_argument("--load_in_4bit", action="store_true", help="quantize the LLM to 4 bit (needs bitsandbytes)")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="dtype of weights and arithmetic; auto is bf16 on a GPU, fp32 on a CPU",
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device to run on")
    group.add_argument(
        "--layer",
        type=layer_choice,
        metavar="|".join((*LAYER_RULES, "N")),
        help="hidden state that prompts the masks (default: the checkpoint's own choice)",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="check every file of a merged directory against its digest (default: files below 1 GB; those of a "
        "training run always)",
    )
    group.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    add_inference_settings(parser)


def add_inference_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of a model that may be changed after training; what is not given stays as it was trained."""
    group = parser.add_argument_group("settings of the checkpoint that can be overridden")
    for item in inference_settings().values():
        add_setting(group, item)


def inference_overrides(flags: argparse.Namespace) -> dict[str, Any]:
    """The settings of `add_inference_settings` that were given, by name."""
    return {name: getattr(flags, name) for name in inference_settings() if getattr(flags, name, None) is not None}


def check_version(version: str) -> None:
    """Raises `UserError` for a `--version` that can be no checkpoint, before anything heavy is imported for it.

    What looks like a name on the hub is left to those who load it, unless its owner is a folder here.
    """
    path = user_path(version)
    try:
        is_here = path.exists()
    except (OSError, ValueError) as error:  # too long, NUL in it
        raise UserError(f"--version {shown(version)} is not a valid path: {error}") from error
    if not is_here:
        if path.parent.is_dir():
            names = [each.name for each in path.parent.iterdir() if each.is_dir()]
            raise UserError(f"--version {version}: no such file or directory{did_you_mean(path.name, names)}")
        if path.is_absolute() or version.startswith(".") or path.parents[-2].is_dir():
            raise UserError(f"--version {version}: no such file or directory")
    elif path.is_dir() and not any(any(path.glob(names)) for names in ("*.json", "*ckpt_model", "global_step*")):
        raise UserError(
            f"--version {version} is no checkpoint: a model's directory has a config.json, a run checkpoints"
        )


def load_flagged_model(flags: argparse.Namespace, local_rank: int = 0) -> tuple[Any, Any]:
    """The model, in evaluation mode on its device, and the processor that the flags name.

    Prints to standard error what was loaded. Raises `UserError` for settings or a layer that the model does not have.
    """
    from checkpoints.runs import is_run
    from utils.distributed import choose_device

    device = choose_device(flags.device, local_rank)
    precision = flags.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    overrides = inference_overrides(flags)
    bits = 8 if flags.load_in_8bit else 4 if flags.load_in_4bit else None
    if is_run(Path(flags.version)):
        from checkpoints.quantizing import quantize
        from checkpoints.runs.restoring import load_trained

        if flags.weight:
            raise UserError("--weight is a file of the reference; --version must then be its base, not a training run")

        base = {name: getattr(flags, name) for name in ("vision_tower", "vision_pretrained") if getattr(flags, name)}
        model, processor, settings = load_trained(flags.version, precision=precision, base=base, overrides=overrides)
        report = settings["report"]
        model = (model if bits is None else quantize(model, bits)).to(device)
    else:
        from checkpoints import load_model

        model, processor, report = load_model(
            flags.version,
            system=find_system(flags.model_key) if flags.model_key else None,
            vision_tower=flags.vision_tower,
            vision_pretrained=flags.vision_pretrained,
            precision=precision,
            overrides=overrides,
            device=device,
            weight=flags.weight,
            lora_alpha=flags.lora_alpha,
            bits=bits,
            verify=flags.verify,
        )
    if local_rank == 0:
        print(report.whole() if flags.debug else report, file=sys.stderr)
    check_overrides(overrides, model.config.system)
    if flags.layer is not None:
        model.system.layer_rule(flags.layer)  # raises for a layer that this model does not have
    return model.eval(), processor
