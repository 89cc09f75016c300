"""LoRA on the LLM's own linear layers, placed by full module name so that nothing else is ever wrapped."""

from collections.abc import Sequence

from torch import nn

from groundscore.errors import UserError


def lora_module_names(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the linear layers inside the LLM whose own name is one of `targets`."""
    llm = model.backbone.parts["llm"]
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(tuple(f"{part}." for part in llm))
        and name.split(".")[-1] in targets
    ]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise UserError(f"--lora_target_modules {target}: the LLM has no linear layer of that name")
    return names


def add_lora(model: nn.Module, *, r: int, alpha: int, dropout: float, targets: Sequence[str]) -> None:
    """Put adapters into the model, in place; other modules and all other names stay as they are.

    `model.lora_config` keeps what peft was told, for an adapter to be saved by itself.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = lora_module_names(model, targets)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=names)
    inject_adapter_in_model(config, model)
    model.lora_config = config


def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the weights that they adapt and take them out, in place."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
