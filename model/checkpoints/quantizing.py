"""The LLM in 8 or 4 bit through bitsandbytes (`pip install -r requirements-quantize.txt`).

Only the linear layers inside LLaMA's blocks are quantised. Word embeddings and output head, CLIP, SAM and every mask
decoder, the policy and all projections keep full precision: they are small, and masks depend on their details.
"""

from typing import Any

from torch import nn

from utils.errors import UserError

from ..grounding import GroundingModel

QUANTISED = "language_model.layers."


def quantize(model: GroundingModel, bits: int) -> GroundingModel:
    """Replace the LLM's linear layers, in place, by ones of 8 or 4 bit; values are quantised on the way to a device.

    The result is for evaluation and chat: it can be moved once, and neither trained nor saved.
    """
    build = {8: _eight_bit, 4: _four_bit}[bits]
    bitsandbytes = _import()
    for name, module in list(model.named_modules()):
        if name.startswith(QUANTISED) and type(module) is nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, build(bitsandbytes, module))
    return model.requires_grad_(False)


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
