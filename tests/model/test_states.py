"""Selecting the layer of every target: exact gradients, and memory that does not grow with the number of layers."""

import pytest
import torch
from torch import nn

from dataloaders.batching.collate import Collator
from model import states
from model.states import select_states
from tests.tiny import tiny_model, tiny_samples

ROWS, LENGTH, WIDTH, TARGETS, POSITIONS = 2, 40, 8, 3, 12


def unrolled_states(layers: int, checkpointed: bool = False) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A chain of layers and its hidden states, each of which the next layer reads."""
    torch.manual_seed(0)
    chain = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
    hidden = [torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)]
    for layer in chain:
        run = torch.utils.checkpoint.checkpoint if checkpointed else lambda call, value, use_reentrant: call(value)
        hidden.append(run(lambda value, layer=layer: layer(value).tanh(), hidden[-1], use_reentrant=False))
    return chain, tuple(hidden)


def selection() -> torch.Tensor:
    return torch.randint(0, ROWS * LENGTH, (TARGETS, POSITIONS), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("layers", [[0, 2, 4], [4, 4, 4], [1, 1, 0]])
def test_selected_states_and_their_gradients_are_those_of_indexing_a_stack_of_all_layers(layers, checkpointed):
    positions, layers = selection(), torch.tensor(layers)
    results = []
    for select in (select_states, indexed_stack):
        chain, unrolled = unrolled_states(4, checkpointed)
        selected = select(unrolled, layers, positions)
        (selected.square().sum() + unrolled[-1].sum() + unrolled[1].square().sum()).backward()
        results.append([selected, unrolled[0].grad, *(parameter.grad for parameter in chain.parameters())])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def indexed_stack(unrolled, layers, positions):
    if isinstance(layers, int):
        return unrolled[layers].flatten(0, 1)[positions]
    stack = torch.stack([hidden.flatten(0, 1) for hidden in unrolled])
    return stack[layers.unsqueeze(1), positions]


def test_a_loss_without_the_selected_states_is_not_given_their_gradient():
    chain, unrolled = unrolled_states(2)
    selected = select_states(unrolled, torch.tensor([0, 1, 2]), selection())
    selected.sum().backward(retain_graph=True)
    unrolled[0].grad = None
    unrolled[-1].sum().backward()
    _, plain = unrolled_states(2)
    plain[-1].sum().backward()
    torch.testing.assert_close(unrolled[0].grad, plain[0].grad)


def test_memory_for_the_selection_does_not_grow_with_the_number_of_layers():
    few, many = (saved_bytes(layers) for layers in (2, 32))
    assert many == few


def saved_bytes(layers: int) -> int:
    """Bytes that the graph of a selection keeps, beyond the hidden states."""
    _, unrolled = unrolled_states(layers)
    kept = {hidden.untyped_storage().data_ptr() for hidden in unrolled}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selected = select_states(unrolled, torch.zeros(TARGETS, dtype=torch.int64), selection())
        selected.square().sum()
    return sum(sizes.values())


def model_gradients(checkpointed: bool) -> dict[str, torch.Tensor]:
    model, processor = tiny_model()
    if checkpointed:
        model.backbone.checkpoint_gradients()
    torch.manual_seed(0)
    model(Collator(processor)(tiny_samples()), layer_choice=torch.tensor([0, 3, 1, 2])).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_in_the_whole_model_the_gradients_are_those_of_a_stack(checkpointed, monkeypatch):
    ours = model_gradients(checkpointed)
    monkeypatch.setattr(states, "select_states", indexed_stack)
    for name, gradient in model_gradients(checkpointed=False).items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
