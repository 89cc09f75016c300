"""LLaMA's norms and gated perceptrons compute what transformers' do, and keep less for the gradient."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from model.backbones.lean_layers import LeanMLP, LeanRMSNorm, keep_less

WIDTH, WIDE = 32, 48


def llamas(**settings):
    """A LLaMA of transformers and ours, with the same weights; norms that scale."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=WIDTH, intermediate_size=WIDE, num_hidden_layers=1, num_attention_heads=2, **settings
    )
    theirs = LlamaModel(config)
    for name, parameter in theirs.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    ours = copy.deepcopy(theirs)
    keep_less(ours)
    return theirs, ours


def kept(module, states):
    """Bytes kept for the gradient, each storage once, parameters left out; and the output."""
    storages = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # alive, so that none is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(states)
    return sum(each.nbytes() for address, each in storages.items() if address not in known), output


@pytest.mark.parametrize("part", ["mlp", "input_layernorm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_and_gradients_are_those_of_transformers(part, dtype):
    results = []
    for llm in llamas():
        module = getattr(llm.layers[0], part).to(dtype)
        states = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        output = module(states)
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).to(dtype))
        results.append([output, states.grad, *(parameter.grad for parameter in module.parameters())])
    theirs, ours = results
    assert torch.equal(ours[0], theirs[0])
    close = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.bfloat16: {"rtol": 4e-2, "atol": 4e-2}}[dtype]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **close)


def test_a_norm_keeps_its_input_alone_and_a_perceptron_one_product_less():
    theirs, ours = (llm.layers[0] for llm in llamas())
    states = torch.randn(2, 5, WIDTH, requires_grad=True)
    positions = states.numel() // WIDTH
    assert kept(ours.input_layernorm, states)[0] == 4 * positions * (WIDTH + 1)  # and a number for each position
    assert kept(theirs.input_layernorm, states)[0] > 4 * positions * 2 * WIDTH
    assert kept(ours.mlp, states)[0] == 4 * positions * (WIDTH + 3 * WIDE)
    assert kept(theirs.mlp, states)[0] == 4 * positions * (WIDTH + 4 * WIDE)


def test_frozen_weights_keep_gate_and_up_alone():
    _, ours = llamas()
    mlp = ours.layers[0].mlp.requires_grad_(False)
    states = torch.randn(2, 5, WIDTH, requires_grad=True)
    assert kept(mlp, states)[0] == 4 * states.numel() // WIDTH * 2 * WIDE


def test_another_activation_stays_as_it_is():
    _, ours = llamas(hidden_act="gelu")
    assert not isinstance(ours.layers[0].mlp, LeanMLP) and isinstance(ours.norm, LeanRMSNorm)
