"""Pictures of validation images: what they show, for every system, and that training does not notice."""

from pathlib import Path

import numpy as np
import pytest
import torch

from groundscore.splits import EvaluationItem
from model.systems import SYSTEMS
from tests.tiny import box_mask, picture, tiny_model
from training.validation import validation_images

FOUND = ("What is the red ball?", "It is [SEG].", box_mask(40, 60, (5, 5, 20, 30)))
ABSENT = ("What is the boat?", "Sure, [REJ].", box_mask(40, 60, (0, 0, 0, 0)))


def item(number: int, *questions) -> EvaluationItem:
    prompts, answers, masks = zip(*questions)
    return EvaluationItem(
        image_path=Path(f"{number}.jpg"),
        image=picture(number, 40, 60),
        expressions=list(prompts),
        kind="own words",
        answers=list(answers),
        masks=np.stack(masks),
        ignore=None,
        exists=[bool(mask.any()) for mask in masks],
        dataset="refcoco",
        split="val",
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_drawn(system):
    model, processor = tiny_model(system)
    images = validation_images(model, processor, [item(1, FOUND)], count=1, layer=None)
    assert [(one.dtype, one.ndim, one.shape[2]) for one in images] == [(np.dtype(np.uint8), 3, 3)]
    has_maps = system in ("UGround", "READ")
    below = (images[0][400:700, 360:] < 200).any()  # the second line of images: the prediction beside the map, or alone
    assert below == has_maps


def test_images_are_spread_over_the_split_and_the_same_every_time():
    model, processor = tiny_model()
    seen = []

    class Items(list):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    items = Items(item(number, FOUND, ABSENT) for number in range(10))
    first = validation_images(model, processor, items, count=3, layer="last")
    again = validation_images(model, processor, items, count=3, layer="last")
    assert seen == [1, 5, 8] * 2
    assert all(np.array_equal(one, other) for one, other in zip(first, again))
    assert len(validation_images(model, processor, Items(items[:2]), count=3, layer="last")) == 2


def test_training_goes_on_as_if_nothing_had_been_drawn():
    model, processor = tiny_model()
    model.train()
    state = torch.get_rng_state()
    validation_images(model, processor, [item(1, ABSENT)], count=1, layer=None)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_of_several_masks_the_one_that_was_asked_for_is_the_truth():
    model, processor = tiny_model()
    other = ("What is the house?", "It is [SEG].", box_mask(40, 60, (25, 35, 38, 58)))
    both = [item(1, FOUND, other), item(1, FOUND, other)]
    first, second = validation_images(model, processor, both, count=2, layer="last")
    alone = [validation_images(model, processor, [item(1, one)], count=1, layer="last")[0] for one in (FOUND, other)]
    assert np.array_equal(first, alone[0]) and np.array_equal(second, alone[1])
