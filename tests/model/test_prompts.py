"""Prompts of an image, packed in one row, are answered as by themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataloaders.collate import Collator
from dataloaders.sample import Sample, Turn
from model.prompts import contexts
from tests.tiny import picture, tiny_model

QUESTIONS = (
    ("What is the ball?", "Where is the tree left of the house, and what is near it?", "Boat?"),
    ("Is there a house in this image?",),
    ("The green one.", "What is the small red ball left of the house in this image?"),
)


def samples() -> list[Sample]:
    found = []
    for number, questions in enumerate(QUESTIONS):
        image = picture(number, 40 + 10 * number, 60)
        turns = [(Turn(question, None),) for question in questions]
        found.append(
            Sample(Path("x.jpg"), image, turns, np.zeros((0, *image.shape[:2]), np.uint8), None, "test", "test")
        )
    return found


@pytest.mark.parametrize("system", ["UGround", "PixelLM"])
@pytest.mark.parametrize("padded_clip", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_prompts_are_answered_as_plain_ones(system, padded_clip, side):
    model, processor = tiny_model(system, pad_train_clip_images=padded_clip)
    model.eval()
    # Whatever is written first leads to a target next, so that there are masks to compare.
    for token in model.config.seg_token_ids:
        model.lm_head.weight.data[token] *= 4

    plain = model.generate(Collator(processor, packed=False, padding_side="left")(samples()), max_new_tokens=12)
    packed = model.generate(Collator(processor, padding_side=side)(samples()), max_new_tokens=12)

    assert [answer.token_ids for answer in packed] == [answer.token_ids for answer in plain]
    assert len({tuple(answer.token_ids) for answer in plain}) > 1
    for one, other in zip(packed, plain, strict=True):
        assert one.layers == other.layers and one.seg_indices == other.seg_indices
        torch.testing.assert_close(one.mask_logits, other.mask_logits, rtol=1e-4, atol=1e-4)


def test_plain_prompts_may_be_padded_on_either_side():
    model, processor = tiny_model()
    questions = [sample for sample in samples() if len(sample.conversations) == 1] + samples()[:1]
    left, right = (
        model.eval().generate(Collator(processor, packed=False, padding_side=side)(questions), max_new_tokens=8)
        for side in ("left", "right")
    )
    assert [answer.token_ids for answer in left] == [answer.token_ids for answer in right]


def test_a_packed_image_is_read_once(monkeypatch):
    model, processor = tiny_model()
    read = []
    forward = model.language_model.forward
    monkeypatch.setattr(
        model.language_model,
        "forward",
        lambda **kwargs: read.append(kwargs["inputs_embeds"].shape) or forward(**kwargs),
    )
    batch = Collator(processor)(samples()[:1])
    model.eval().generate(batch, max_new_tokens=2)
    assert read[0] == (1, batch.input_ids.shape[1], 32)
    assert read[1:] in ([], [(3, 1, 32)])


def test_contexts_are_a_prefix_and_one_branch_filled_up_on_the_left():
    rows, index, real = contexts(torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 1, -1, -1, -1]]))
    assert rows.tolist() == [0, 0, 1]
    assert index.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 5], [0, 0, 0, 1, 2]]
    assert real.tolist() == [[True] * 5, [False, False, True, True, True], [False, False, True, True, True]]
