"""Generation with a cache writes what reading the whole text again would write, with the masks of that text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from model.systems import SYSTEMS
from tests.tiny import picture, tiny_model

QUESTIONS = ("What is the red ball?", "What are the house and the tree near the boat in this image?", "the tree")


def prompts(count: int = 3) -> list[Sample]:
    """One image and question each; sizes and lengths differ."""
    return [
        Sample(
            image_path=Path(f"{index}.jpg"),
            image=picture(index, 40 + 10 * index, 64 - 6 * index),
            conversations=[(Turn(question, None),)],
            masks=np.zeros((0, 40 + 10 * index, 64 - 6 * index), dtype=np.uint8),
            ignore=None,
            family="evaluation",
            dataset="test",
        )
        for index, question in enumerate(QUESTIONS[:count])
    ]


def talkative_model(system: str, **overrides):
    """A model that writes `[SEG]` often: the head's rows of its tokens are large along many states."""
    model, processor = tiny_model(system, **overrides)
    model.eval()
    written = {"count": 0}
    ids = list(model.config.seg_token_ids)
    plain = model.lm_head.forward

    def head(states):
        logits = plain(states)
        if states.dim() == 2 and not torch.is_grad_enabled():
            step = written["count"]
            written["count"] += 1
            if 2 <= step < 2 + len(ids):
                logits[:, ids[step - 2]] += 1e4
            elif step == 5 + len(ids):
                logits[1:, model.config.text_config.eos_token_id] += 1e4
        return logits

    model.lm_head.forward = head
    return model, processor, written


@pytest.mark.parametrize("padded", [False, True], ids=["cropped", "padded"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_batch_of_prompts_is_answered_like_each_alone(system, padded):
    model, processor, written = talkative_model(system, pad_train_clip_images=padded)
    collate = Collator(processor, packed=False, padding_side="left")
    together = model.generate(collate(prompts()), max_new_tokens=12)
    for index, sample in enumerate(prompts()):
        written["count"] = 0
        alone = model.generate(collate([sample]), max_new_tokens=12)[0]
        batched = together[index]
        length = min(len(alone.token_ids), len(batched.token_ids))
        assert batched.token_ids[:length] == alone.token_ids[:length]
        assert batched.seg_indices == alone.seg_indices == [2]
        assert batched.mask_logits.shape == (1, *sample.image.shape[:2])
        assert batched.layers == alone.layers
        assert torch.allclose(batched.mask_logits, alone.mask_logits, atol=1e-3)


@pytest.mark.parametrize("system", SYSTEMS)
def test_generated_masks_equal_teacher_forced_masks_of_the_same_tokens(system):
    model, processor, _ = talkative_model(system)
    sample = prompts(1)[0]
    batch = Collator(processor, packed=False, padding_side="left")([sample])
    answer = model.generate(batch, max_new_tokens=10)[0]
    tokens = torch.tensor([answer.token_ids])
    length = batch.input_ids.shape[1]
    full = torch.cat([batch.input_ids, tokens], dim=1)
    start = length + answer.seg_indices[0] - 1
    count = len(model.config.seg_token_ids)
    teacher = replace(
        batch,
        input_ids=full,
        branches=torch.ones_like(full).where(torch.arange(full.shape[1]) >= 1, torch.zeros_like(full)),
        position_ids=torch.arange(full.shape[1]).unsqueeze(0),
        seg_positions=torch.arange(start, start + count).unsqueeze(0),
        seg_image=torch.zeros(1, dtype=torch.int64),
        masks=[torch.zeros((1, *sample.image.shape[:2]), dtype=torch.bool)],
        target_is_seg=[[True]],
    )
    segmentation = model.segment(teacher)[0]
    assert segmentation.layers == answer.layers
    assert torch.allclose(segmentation.mask_logits, answer.mask_logits, atol=1e-3)


def test_tokens_arrive_one_by_one():
    model, processor, _ = talkative_model("UGround")
    arrived = []
    batch = Collator(processor, packed=False, padding_side="left")(prompts(1))
    answer = model.generate(batch, max_new_tokens=6, on_token=lambda row, token: arrived.append((row, token)))[0]
    assert arrived == [(0, token) for token in answer.token_ids]


def test_generation_uses_nothing_that_the_libraries_give_up(recwarn):
    model, processor, _ = talkative_model("UGround")
    for packed in (True, False):
        model.generate(Collator(processor, packed=packed, padding_side="left")(prompts()), max_new_tokens=3)
    assert not [one for one in recwarn if issubclass(one.category, FutureWarning | DeprecationWarning)]


def test_no_target_gives_no_masks():
    model, processor = tiny_model("UGround")
    model.eval()
    with torch.no_grad():
        model.lm_head.weight[list(model.config.seg_token_ids)] = 0
        model.lm_head.weight[5] = 0
    batch = Collator(processor, packed=False, padding_side="left")(prompts(1))
    answer = model.generate(batch, max_new_tokens=3)[0]
    assert answer.seg_indices == []
    assert answer.mask_logits.shape == (0, 40, 64)
