"""Command lines: a parser with our manners, and the flags by which `eval.py`, `chat.py` and `app.py` name a model.

Nothing heavy is imported before the flags are known, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundscore.errors import UserError
from model.settings import check_overrides, inference_settings
from model.systems import find_system
from utils.plugins import HELP as PLUGIN_HELP
from utils.settings import add_setting


class _Help(argparse.HelpFormatter):
    """Help that ends in the default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, argparse.SUPPRESS)
        return f"{action.help} (default: %(default)s)" if shown else action.help


class FlagParser(argparse.ArgumentParser):
    """argparse that accepts hyphens for underscores, suggests what was meant, and raises `UserError`.

    refused: names of flags that do not exist here, with the reason to give to those who pass them.
    """

    def __init__(self, *, refused: dict[str, str] | None = None, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **kwargs)
        self.refused = refused or {}
        self.add_argument("--plugin", metavar="MODULE", default=self.argument_default or "", help=PLUGIN_HELP)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        namespace, unknown = self.parse_known_args([_underscores(token) for token in argv])
        if unknown:
            self.error(self._about(unknown[0]))
        return namespace

    def setting(self, name: str, text: str) -> tuple[str, Any]:
        """The destination and the value of the flag `name` for which a file gives `text`; a switch is true or false."""
        action = self._option_string_actions.get(f"--{name.replace('-', '_')}")
        if action is None:
            self.error(self._about(f"--{name}"))
        if action.nargs != 0:
            return action.dest, vars(self.parse([f"--{name}={text}"]))[action.dest]
        if text.lower() not in ("true", "false"):
            self.error(f"--{name} {text}: a switch is true or false")
        return action.dest, action.const if text.lower() == "true" else not action.const

    def words_for(self, dest: str, value: Any) -> list[str]:
        """The words of a command line that set `dest` to `value`; none where a switch is off and has no opposite."""
        actions = [action for action in self._actions if action.dest == dest]
        if actions[0].nargs != 0:
            flag, text = actions[0].option_strings[0], str(value)
            return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
        return [action.option_strings[0] for action in actions if action.const == value]

    def _about(self, token: str) -> str:
        """What to say about an argument that nothing took."""
        flag = token.partition("=")[0]
        if not flag.startswith("--"):
            return f"unexpected argument {token!r}: values belong to a flag, and lists are written without spaces"
        if flag[2:] in self.refused:
            return f"{flag} is not a flag of {self.prog}: {self.refused[flag[2:]]}. Leave it out."
        known = [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(flag, known, n=1)
        return f"unknown flag {flag}" + (f"; did you mean {close[0]}?" if close else "")

    def error(self, message: str):
        raise UserError(f"{message}\n`python {self.prog} --help` lists the flags")


def _underscores(token: str) -> str:
    """`--vis-save-path=a-b` -> `--vis_save_path=a-b`."""
    if not token.startswith("--"):
        return token
    name, equals, value = token[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def layer_choice(text: str) -> int | str:
    """`last`, `greedy`, `mixture`, `sample` or the index of a hidden state (0 for the embeddings)."""
    if text in ("last", "greedy", "mixture", "sample"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not last, greedy, mixture, sample or an index")


def add_model_flags(parser: argparse.ArgumentParser, *, version_required: bool = True) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--version",
        required=version_required,
        default=argparse.SUPPRESS if version_required else None,
        metavar="DIR",
        help="checkpoint to load: a merged directory, a LLaVA base, or a training run",
    )
    group.add_argument("--model_key", metavar="SYSTEM", help="system, where the checkpoint does not say")
    group.add_argument("--vision_tower", metavar="DIR", help="CLIP, for a plain LLaVA base")
    group.add_argument("--vision_pretrained", metavar="FILE", help="SAM, for a plain LLaVA base")
    group.add_argument(
        "--weight",
        metavar="FILE",
        help="consolidated training file of the reference, --version being the base that it was trained from",
    )
    group.add_argument("--lora_alpha", type=float, default=16, metavar="X", help="LoRA scale times rank of --weight")
    quantised = group.add_mutually_exclusive_group()
    quantised.add_argument("--load_in_8bit", action="store_true", help="the LLM in 8 bit (needs bitsandbytes)")
    quantised.add_argument("--load_in_4bit", action="store_true", help="the LLM in 4 bit (needs bitsandbytes)")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="weights and arithmetic; auto is bf16 on a GPU, fp32 on a CPU",
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    group.add_argument(
        "--layer",
        type=layer_choice,
        metavar="last|greedy|mixture|sample|N",
        help="hidden state that prompts the masks (default: the checkpoint's own choice)",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="read every file of a merged directory against its digests (without it those below 1 GB; of a training "
        "run always all)",
    )
    group.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    add_inference_settings(parser)


def add_inference_settings(parser: argparse.ArgumentParser) -> None:
    """Add the settings of a model that may be changed after training; what is not given stays as it was trained."""
    group = parser.add_argument_group("what the checkpoint says, and these override")
    for item in inference_settings().values():
        add_setting(group, item)


def inference_overrides(flags: argparse.Namespace) -> dict[str, Any]:
    """The settings of `add_inference_settings` that were given, by name."""
    return {name: getattr(flags, name) for name in inference_settings() if getattr(flags, name, None) is not None}


def load_flagged_model(flags: argparse.Namespace, local_rank: int = 0) -> tuple[Any, Any]:
    """The model, in evaluation mode on its device, and the processor that the flags name; what was loaded is said on
    standard error."""
    from utils.distributed import choose_device

    device = choose_device(flags.device, local_rank)
    precision = flags.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    overrides = inference_overrides(flags)
    bits = 8 if flags.load_in_8bit else 4 if flags.load_in_4bit else None
    if is_training_checkpoint(Path(flags.version)):
        from checkpoints.quantizing import quantize
        from training.restoring import load_trained

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
        model.layer_rule(flags.layer)  # complains about a layer that this model does not have
    return model.eval(), processor


def is_training_checkpoint(path: Path) -> bool:
    """Whether this is a run, or a checkpoint inside one, and not a directory of Hugging Face's kind."""
    marks = ("complete.json", "latest", "ckpt_model", "best_ckpt_model")
    return not (path / "config.json").exists() and any((path / mark).exists() for mark in marks)
