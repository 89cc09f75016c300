"""The language loss: logits where there is a label and nowhere else, a chunk at a time."""

import torch
from torch import nn

from dataloaders.collate import Collator
from model.losses import token_losses
from tests.tiny import text_only_sample, tiny_model, tiny_samples


def test_logits_are_computed_at_labelled_positions_only():
    model, processor = tiny_model()
    batch = Collator(processor)([*tiny_samples(), text_only_sample()])
    positions = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: positions.append(inputs[0].shape[0]))
    model(batch)
    assert sum(positions) == len(batch.label_ids) < batch.input_ids.numel() / 2


def test_chunks_give_the_losses_and_gradients_of_the_whole():
    torch.manual_seed(0)
    head, states, labels = nn.Linear(16, 500, bias=False), torch.randn(70, 16), torch.randint(0, 500, (70,))
    results = []
    for chunk in (70, 16):
        head.zero_grad()
        leaf = states.clone().requires_grad_()
        losses = token_losses(head, leaf, labels, chunk)
        losses.sum().backward()
        results.append((losses.detach(), leaf.grad, head.weight.grad.clone()))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole)


def test_a_chunk_is_the_most_that_is_kept_of_a_large_vocabulary():
    vocabulary, chunk = 5000, 32
    head = nn.Linear(8, vocabulary, bias=False)
    states, labels = torch.randn(256, 8, requires_grad=True), torch.zeros(256, dtype=torch.int64)
    largest = 0

    def pack(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel() if tensor.data_ptr() != head.weight.data_ptr() else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_losses(head, states, labels, chunk)
    assert largest < chunk * vocabulary
