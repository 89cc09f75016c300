"""What ZeRO 3, which shares the weights among the processes, needs besides DeepSpeed's own care.

DeepSpeed fetches a module's weights when it is called, on all processes together, and frees them afterwards. So all of
them must call the same modules in the same order, whatever their batches hold, and nobody may use the weight of a
module without calling it. In training the model keeps to that. Validation does not: there every process has images of
its own, and writes answers of any length. It gets all weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

WHOLE_MODULES = ("TargetDecoder", "MultiScaleDecoder")  # use the weights of their children, so fetch all of them


def share_weights(model: nn.Module, config: dict[str, Any], device: torch.device) -> None:
    """Move the model to the device, each process its share of the weights: there is never room needed for all of them.

    config: DeepSpeed's. Every process has the same model on the CPU.
    """
    import deepspeed

    deepspeed.utils.set_z3_leaf_modules(model, list(WHOLE_MODULES), raise_if_not_found=False)
    model.to(_precision_of(config))  # which DeepSpeed leaves to us here
    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    model.to(device)  # buffers


def _precision_of(config: dict[str, Any]) -> torch.dtype:
    if config["fp16"]["enabled"]:
        return torch.float16
    return torch.bfloat16 if config["bf16"]["enabled"] else torch.float32


@contextmanager
def whole_weights(engine) -> Iterator[None]:
    """Inside, every process has all weights, and may call any module at any time; nothing changes at other stages.

    All processes enter and leave together. Needs room for the whole model.
    """
    if engine.zero_optimization_stage() < 3:
        yield
        return
    import deepspeed

    offload = engine.optimizer.parameter_offload
    engine.empty_partition_cache()
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        for hook in (*offload.forward_hooks, *offload.backward_hooks):  # they would free what is used
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(engine.module)
