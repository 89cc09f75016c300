"""What a training run learned, put into its base tensor by tensor while it is written; no model is ever filled."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from checkpoints.adapting import merge_lora
from checkpoints.loading import PRECISIONS, OpenedModel
from checkpoints.streaming import TensorToWrite
from checkpoints.weights import check_names, check_shapes


def merged_tensors(
    opened: OpenedModel, trained: Mapping[str, Tensor], *, alpha: float, precision: str
) -> dict[str, TensorToWrite]:
    """All tensors of the merged model, ready to be written.

    opened: the base. trained: what learned, under the names of the model with LoRA; it takes the place of the base's.
    alpha: LoRA's scale times rank. precision: of parameters; buffers such as the running reward stay exact.
    """
    weights, source = opened.weights, str(opened.report.path)
    drawn = opened.model.state_dict()
    for name in opened.report.new:
        weights.put(name, tuple(drawn[name].shape), partial(drawn.__getitem__, name))
    for name, tensor in trained.items():
        weights.put(name, tuple(tensor.shape), partial(trained.__getitem__, name))
    merge_lora(weights, alpha, source)
    check_names(drawn.keys() - weights.keys(), weights.keys() - drawn.keys(), f"what was trained on {source}")
    check_shapes(weights, drawn, f"what was trained on {source}")
    parameters = {name for name, _ in opened.model.named_parameters(remove_duplicate=False)}
    types = {name: _dtype(name in parameters, tensor, precision) for name, tensor in drawn.items()}
    return {name: TensorToWrite(weights.shape(name), types[name], weights.reader(name)) for name in drawn}


def _dtype(is_parameter: bool, tensor: Tensor, precision: str) -> torch.dtype:
    if is_parameter:
        return PRECISIONS[precision]
    return torch.float32 if tensor.is_floating_point() else tensor.dtype
