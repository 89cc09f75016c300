"""A model's tensors under the reference's names, both ways; what compares the two programs is built on this."""

from collections.abc import Mapping

from torch import Tensor

from checkpoints.names import from_reference, to_reference
from checkpoints.weights import Weights, check_names, fill
from model.grounding import GroundingModel


def load_reference_state_dict(model: GroundingModel, tensors: Mapping[str, Tensor], *, partial: bool = False) -> None:
    """Copy tensors with the reference's names into `model`; `UserError` for one that is unknown or missing.

    The reference's merged checkpoints leave the CLIP tower out and may lack `out_mm_projector`; these may be missing
    as a whole. With `partial` anything may be.
    """
    source = "the reference state dictionary"
    weights = Weights()
    weights.add(tensors, from_reference, source)
    known = {name for name in model.state_dict() if to_reference(name)}
    optional = tuple(part for part in ("vision_tower.", "out_mm_projector.") if not weights.has(part))
    missing = {name for name in known - set(weights) if not partial and not name.startswith(optional)}
    unexpected = {weights.their_name(name) for name in weights if name not in known}
    check_names({to_reference(name) for name in missing}, unexpected, source)
    fill(model, weights, source)


def reference_state_dict(model: GroundingModel) -> dict[str, Tensor]:
    """The tensors of `model` under the reference's names."""
    state = {to_reference(name): tensor for name, tensor in model.state_dict().items()}
    state.pop(None, None)
    return state


def reference_gradients(model: GroundingModel) -> dict[str, Tensor]:
    """The gradients of all parameters that have one, under the reference's names."""
    gradients: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        theirs = to_reference(name)
        if parameter.grad is not None and theirs is not None:
            gradients[theirs] = gradients[theirs] + parameter.grad if theirs in gradients else parameter.grad
    return gradients
