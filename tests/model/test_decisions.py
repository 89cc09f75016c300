"""Is the target there? `[SEG]` against `[REJ]` in given and generated answers, and words alone."""

import pytest
import torch

from dataloaders.batching.collate import Collator
from model.generation import written_at
from tests.model.test_generation import prompts
from tests.tiny import tiny_model, tiny_samples, write_answer

SYSTEMS_WITH_REJECTION = ["GSVA", "UGround", "PixelLM"]


def answer_to(system: str, *words: str):
    """What a model of `system` returns that writes these words (`[SEG]` and `[REJ]` in as many tokens as it has)."""
    model, processor = tiny_model(system)
    model.eval()
    ids = {"[SEG]": model.config.seg_token_ids, "[REJ]": model.config.rej_token_ids}
    plain = {word: processor.tokenizer.encode(word)[1:] for word in words if word not in ids}
    write_answer(model, [token for word in words for token in (ids | plain)[word]])
    batch = Collator(processor, packed=False, padding_side="left")(prompts(1))
    answer = model.generate(batch, max_new_tokens=60)[0]
    return answer, processor.decode(answer.token_ids)


@pytest.mark.parametrize("system", SYSTEMS_WITH_REJECTION)
def test_a_written_rejection_has_a_place_and_no_mask(system):
    answer, text = answer_to(system, "house", "[SEG]", "boat", "[REJ]", "tree", "[SEG]")
    assert answer.decisions == [True, False, True]
    assert answer.mask_logits.shape == answer.masks.shape == (2, 40, 64)
    assert answer.masks.dtype == torch.bool
    assert (len(answer.layers), len(answer.mask_scores)) == (2, 2)
    assert answer.seg_indices[0] < answer.rej_indices[0] < answer.seg_indices[1]
    assert text.count("[SEG]") == 2 and text.count("[REJ]") == 1


@pytest.mark.parametrize("system", SYSTEMS_WITH_REJECTION)
def test_rejections_only_mean_absence(system):
    answer, _ = answer_to(system, "boat", "[REJ]", "tree", "[REJ]")
    assert answer.decisions == [False, False]
    assert answer.seg_indices == [] and len(answer.mask_logits) == 0
    assert not answer.presence


@pytest.mark.parametrize("system", ["SESAME", "LISA", "UGround"])
def test_an_answer_in_words_means_absence(system):
    """SESAME denies or corrects in words; the words are the answer."""
    answer, text = answer_to(system, "There is no boat in this image, it is the tree.")
    assert text == "There is no boat in this image, it is the tree."
    assert answer.decisions == [] and not answer.presence
    assert answer.mask_logits.shape == (0, 40, 64)


def test_an_empty_mask_means_absence():
    answer, _ = answer_to("SESAME", "house", "[SEG]")
    answer.mask_logits = torch.full_like(answer.mask_logits, -1.0)
    assert answer.decisions == [True] and not answer.presence
    answer.mask_logits[0, 3, 3] = 1.0
    assert answer.presence


def test_targets_of_several_tokens_are_found_whole():
    assert written_at([7, 8, 7, 7, 8, 3, 8], [7, 8]) == [0, 3]
    assert written_at([7, 7, 7], [7]) == [0, 1, 2]
    assert written_at([7, 7], []) == written_at([], [7]) == []


@pytest.mark.parametrize("system", SYSTEMS_WITH_REJECTION)
@pytest.mark.parametrize("writes", ["[SEG]", "[REJ]", "other"])
def test_given_answers_are_decided_by_what_the_model_would_write(system, writes):
    """A third token counts against the given one (the reference's rule)."""
    model, processor = tiny_model(system)
    token = {"[SEG]": model.config.seg_token_ids[0], "[REJ]": model.config.rej_token_ids[0], "other": 9}[writes]
    model.eval().lm_head.forward = lambda states: torch.eye(model.config.text_config.vocab_size)[token].expand(
        len(states), -1
    )
    first, second = model.segment(Collator(processor)(tiny_samples()))
    accepted, rejected = writes == "[SEG]", writes != "[REJ]"
    assert first.decisions == [accepted, accepted, accepted, rejected]
    assert second.decisions == [accepted]
    assert first.mask_logits.shape[0] == 3
