"""LLaMA's norms and gated products with a backward pass of their own, for which only what goes in is kept.

Autograd keeps every product on the way: of a gate three tensors of the width of the perceptron, of a norm two of the
width of the LLM. Here the gate keeps two and the norm one; what is missing is computed again from them, element by
element. Parameters and results are those of transformers' classes.

Legend: D width, F width of the perceptron.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm


class _Gated(torch.autograd.Function):
    """silu(gate) · up."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return of_gate, F.silu(gate).mul_(grad)


class _RootMeanSquareNorm(torch.autograd.Function):
    """weight · x / √(mean of x² + epsilon) over the last axis; all but the product with the weight is in float32."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = states.float()
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(states, weight, scale)
        return weight * (exact * scale).to(states.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states, weight, scale = ctx.saved_tensors
        normalized = states.float() * scale
        of_weight = of_states = None
        if ctx.needs_input_grad[1]:
            of_weight = (grad * normalized.to(grad.dtype)).flatten(0, -2).sum(0)
        if ctx.needs_input_grad[0]:
            of_normalized = (grad * weight).float()
            along = (of_normalized * normalized).mean(-1, keepdim=True)
            of_states = of_normalized.sub_(normalized.mul_(along)).mul_(scale).to(states.dtype)
        return of_states, of_weight, None


class LeanMLP(LlamaMLP):
    """LLaMA's gated perceptron."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, D] → the same shape."""
        return self.down_proj(_Gated.apply(self.gate_proj(x), self.up_proj(x)))


class LeanRMSNorm(LlamaRMSNorm):
    """LLaMA's norm."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[…, D] → the same shape."""
        return _RootMeanSquareNorm.apply(hidden_states, self.weight, self.variance_epsilon)


def keep_less(llm: PreTrainedModel) -> None:
    """Gives the modules of a LLaMA these forward passes; a perceptron with another activation stays as it is."""
    gated = llm.config.hidden_act in ("silu", "swish")
    for module in llm.modules():
        if type(module) is LlamaRMSNorm:
            module.__class__ = LeanRMSNorm
        elif type(module) is LlamaMLP and gated:
            module.__class__ = LeanMLP
