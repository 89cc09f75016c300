"""Adapters on disk: the trained parameters of a LoRA run, without the base that it started from.

    adapter_config.json, adapter_model.safetensors    LoRA, as peft reads and writes it
    trained.safetensors                               everything else that is not in the base
    base.json                                         the base: `version`, `vision_tower`, `vision_pretrained`
    config.json, tokenizer, image settings, README.md

`load_model` takes such a directory like any other: it loads the base and lays this over it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.adapting import merge_lora
from checkpoints.card import Scores, model_card
from checkpoints.config_checks import check_values, optional
from checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    BASE_FILE,
    CARD_FILE,
    CONFIG_FILE,
    TRAINED_FILE,
    open_tensors,
    read_config,
    read_json_object,
)
from checkpoints.names import PEFT_PREFIX
from checkpoints.own_configs import own_config
from checkpoints.processing import GroundingProcessor
from checkpoints.vocabulary import tables_of
from checkpoints.weights import Weights
from checkpoints.writing import config_values, save_safetensors, written_beside
from dataloaders.batching.tokenization import GroundingTokenizer
from groundscore.errors import UserError
from groundscore.writing import write_json
from model.backbones import backbone_of
from model.config import GroundingConfig
from model.grounding import GroundingModel
from utils.settings import Rule, number, one_of

BASE_FIELDS = ("version", "vision_tower", "vision_pretrained")
# What peft can add to a plain LoRA and is not merged here.
_UNSUPPORTED = (
    *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias", "layer_replication", "fan_in_fan_out"),
    *("megatron_config", "use_qalora", "alora_invocation_tokens"),
)
_TEXT = Rule("a text", lambda value: isinstance(value, str) and value != "")
_BASE_RULES = {"version": _TEXT, "vision_tower": optional(_TEXT), "vision_pretrained": optional(_TEXT)}
_LORA_RULES = {"peft_type": one_of("LORA"), "lora_alpha": number(-1e6, 1e6), "bias": one_of("none")}
# Fields of the configuration that are the base's own.
_OF_THE_BASE = ("text_config", "vision_config", "sam_config", "base_values")


def save_adapter(
    model: GroundingModel,
    processor: GroundingProcessor,
    directory: str | Path,
    *,
    base: Mapping[str, str | None],
    overwrite: bool = False,
    scores: Scores | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write the LoRA of `model` (not merged, see `model.lora.add_lora`) and what else is not in its base.

    base: where the base is found again: "version", "vision_tower", "vision_pretrained". check: as in `save_model`.
    """
    state = model.state_dict()
    adapters = {
        PEFT_PREFIX + name.replace(".default.weight", ".weight"): tensor
        for name, tensor in state.items()
        if ".lora_" in name
    }
    if not adapters:
        raise UserError("the model was trained without LoRA: there is no adapter to save, only a merged model")
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # What no base has is kept as it was initialised, whether it was trained or not.
    tables = tables_of(model.config)
    new = tuple(f"{name}." for name in model.added_modules)
    trained = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in state.items()
        if ".lora_" not in name and (name in learned or name in tables or name.startswith(new))
    }
    with written_beside(Path(directory), overwrite, check) as beside:
        config = model.lora_config
        config.base_model_name_or_path = base["version"]
        config.save_pretrained(beside)
        save_safetensors(_on_cpu(adapters), beside / ADAPTER_FILE)
        save_safetensors(_on_cpu(trained), beside / TRAINED_FILE)
        write_json(beside / BASE_FILE, {name: base.get(name) for name in BASE_FIELDS}, sort_keys=True)
        write_json(beside / CONFIG_FILE, config_values(model), sort_keys=True)
        processor.save_pretrained(beside)
        card = model_card(model.config, Path(directory).resolve().name, base=base["version"], scores=scores)
        (beside / CARD_FILE).write_text(card, encoding="utf-8")


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


@dataclass
class Adapter:
    """An adapter's directory. base: `version` and where CLIP and SAM are, None where the base has them."""

    path: Path
    config: GroundingConfig
    base: dict[str, str | None]
    alpha: float

    @classmethod
    def read(cls, path: Path) -> "Adapter | None":
        """The adapter in a directory, None if it holds something else."""
        if not (path / ADAPTER_CONFIG).is_file():
            return None
        lora = read_json_object(path / ADAPTER_CONFIG)
        if not (path / BASE_FILE).is_file():
            raise UserError(f"{path} is an adapter of another program: it has no {BASE_FILE}")
        base = {name: read_json_object(path / BASE_FILE).get(name) for name in BASE_FIELDS}
        check_values(_BASE_RULES, base, str(path / BASE_FILE))
        if "lora_alpha" not in lora:
            raise UserError(f"{path / ADAPTER_CONFIG} has no lora_alpha")
        check_values(_LORA_RULES, lora, str(path / ADAPTER_CONFIG))
        unknown = [name for name in _UNSUPPORTED if lora.get(name)]
        if unknown:
            raise UserError(f"{path / ADAPTER_CONFIG}: {unknown[0]} is not supported")
        return cls(path, own_config(read_config(path), path / CONFIG_FILE), base, lora["lora_alpha"])

    @property
    def tokenizer(self) -> GroundingTokenizer:
        """The tokenizer of the trained model, which has more tokens than the base's."""
        return backbone_of(self.config).tokenizer.from_directory(self.path)

    def fields(self) -> dict[str, Any]:
        """What the configuration says beyond the base's own."""
        names = GroundingConfig.own_fields() - {*_OF_THE_BASE, "system", "plugin"}
        return {name: getattr(self.config, name) for name in sorted(names)}

    def lay_over(self, weights: Weights) -> int:
        """Replace the base's tensors by the trained ones; how many weights LoRA adapted."""
        trained = open_tensors(self.path / TRAINED_FILE)
        weights.replace(trained, lambda name: name, str(trained.path))
        lora = open_tensors(self.path / ADAPTER_FILE)
        weights.replace(lora, _name_of_lora, str(lora.path))
        return merge_lora(weights, self.alpha, str(self.path))


def _name_of_lora(name: str) -> str:
    """Our name for a tensor that peft wrote."""
    return name.removeprefix(PEFT_PREFIX).removesuffix(".weight") + ".default.weight"
