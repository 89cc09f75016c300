"""The family of LISA++ writes what its texts mention as targets."""

import numpy as np
import pytest

from dataloaders.families.reason_seg_plus import ReasonSegPlus
from dataloaders.settings import data_settings


def opened(root, subset: str) -> ReasonSegPlus:
    return ReasonSegPlus(root, data_settings(reason_seg_plus_data=subset))


@pytest.mark.parametrize(
    "subset,answers,areas",
    [
        ("instance_seg", ["plate is [SEG] and Cup is [SEG]."], [144, 64]),
        ("cot", ["First [SEG], then [SEG]."], [144, 64]),
        ("conversations", ["No, [SEG] is not.", "[SEG]"], [64, 144]),
        ("caption", ["A cup [SEG] on a plate [SEG]."], [64, 144]),
    ],
)
def test_every_part_of_lisa_plus_writes_masks_in_order(data_root, subset, answers, areas):
    sample = opened(data_root, subset).draw(np.random.default_rng(0))

    assert [turns[0].answer for turns in sample.conversations] == answers
    assert sample.masks.sum((1, 2)).tolist() == areas


def test_a_question_that_asks_for_nothing_is_given_a_request(data_root):
    plain = opened(data_root, "cot").draw(np.random.default_rng(0)).conversations[0][0].question
    asking = opened(data_root, "caption").draw(np.random.default_rng(0)).conversations[0][0].question

    assert plain.startswith("Why is it there? ")
    assert asking == "Describe it."
