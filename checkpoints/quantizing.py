"""The LLM in 8 or 4 bit through bitsandbytes (`pip install -r requirements-quantize.txt`).

Only the linear layers inside the LLM's layers are quantised. Word embeddings and output head, image encoders, mask
decoders, the policy and all projections keep full precision: they are small, and masks depend on their details.
"""

import logging
from typing import Any

from torch import nn

from groundscore.errors import UserError
from model.grounding import GroundingModel

log = logging.getLogger(__name__)

BLOCK, PACKED_ROWS = 64, 32  # 4-bit weights share a scale by blocks along a row, and CPUs read so many rows at once


def quantize(model: GroundingModel, bits: int) -> GroundingModel:
    """Replace the LLM's linear layers, in place, by ones of 8 or 4 bit; values are quantised on the way to a device.

    The result is for evaluation and chat: it can be moved once, and neither trained nor saved. Layers whose sides do
    not fit the 4-bit layout keep full precision, which the log says; `UserError` where none fits.
    """
    build = {8: _eight_bit, 4: _four_bit}[bits]
    bitsandbytes = _import()
    inside = {module for layer in model.backbone.layers for module in layer.modules()}
    linears = {name: each for name, each in model.named_modules() if each in inside and type(each) is nn.Linear}
    fitting = {name: module for name, module in linears.items() if bits == 8 or _fits_four_bit(module)}
    rule = f"4 bit needs rows of a multiple of {BLOCK} weights, and a multiple of {PACKED_ROWS} rows"
    if not fitting:
        raise UserError(f"--load_in_4bit: no layer of this LLM fits ({rule}); --load_in_8bit takes any size")
    if left := len(linears) - len(fitting):
        log.warning("%d of the LLM's %d linear layers keep full precision: %s", left, len(linears), rule)
    for name, module in fitting.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, build(bitsandbytes, module))
    return model.requires_grad_(False)


def _fits_four_bit(linear: nn.Linear) -> bool:
    return linear.in_features % BLOCK == 0 and linear.out_features % PACKED_ROWS == 0


def _import() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            "--load_in_8bit and --load_in_4bit need bitsandbytes: pip install -r requirements-quantize.txt"
        ) from error
    return bitsandbytes


def _eight_bit(bitsandbytes: Any, linear: nn.Linear) -> nn.Module:
    new = bitsandbytes.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, device="meta"
    )
    new.weight = bitsandbytes.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    new.bias = linear.bias
    return new


def _four_bit(bitsandbytes: Any, linear: nn.Linear) -> nn.Module:
    new = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    new.weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=new)
    new.bias = linear.bias
    return new
