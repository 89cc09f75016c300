"""Items of a mixture depend on seed, epoch and number; names and rates are checked."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from dataloaders.mixture import Mixture, build_mixture
from utils.errors import UserError


class Numbers:
    """Stands in for a family: its samples are random numbers."""

    def __init__(self, offset: int = 0):
        self.offset = offset

    def draw(self, rng):
        return self.offset + rng.random()


def mixture_of(*rates, seed=1, length=8):
    return Mixture([Numbers(10 * index) for index in range(len(rates))], rates, seed, samples_per_epoch=length)


def test_an_item_depends_on_seed_epoch_and_number_alone():
    mixture = mixture_of(1, 1)
    forwards = [mixture[index] for index in range(8)]

    assert [mixture[index] for index in reversed(range(8))] == forwards[::-1]
    assert [mixture_of(1, 1)[0, index] for index in range(8)] == forwards
    assert [mixture[1, index] for index in range(8)] != forwards
    assert [mixture_of(1, 1, seed=2)[index] for index in range(8)] != forwards
    assert len(set(forwards)) == 8
    assert list(mixture) == forwards


def test_workers_see_the_epoch_and_give_the_same_items():
    mixture = mixture_of(1)
    loader = DataLoader(mixture, batch_size=None, num_workers=2, persistent_workers=True)

    epochs = []
    for epoch in range(2):
        mixture.set_epoch(epoch)
        epochs.append([float(item) for item in loader])

    assert epochs[0] == [mixture[0, index] for index in range(8)]
    assert epochs[1] == [mixture[1, index] for index in range(8)]


def test_rates_say_how_often_a_family_is_drawn_from():
    mixture = mixture_of(3, 0, 1, length=2000)

    families = [int(item) // 10 for item in mixture]

    assert families.count(1) == 0
    assert 0.7 < families.count(0) / len(families) < 0.8


def test_a_family_with_rate_0_is_not_touched(tmp_path, data_root):
    mixture = build_mixture(
        data_root,
        dataset="correct_refer_seg||refer_seg||neg_refer_seg||vqa",
        sample_rates="0,12,0,0",
        refer_seg_data="refcoco",
        vqa_data="no_such_file",
        samples_per_epoch=3,
    )

    assert [sample.family for sample in mixture] == ["refer_seg"] * 3


def test_all_families_together(data_root):
    mixture = build_mixture(
        data_root,
        dataset="sem_seg||refer_seg||vqa||reason_seg",
        sample_rates="12,9,3,3",
        num_classes_per_question=3,
        samples_per_epoch=40,
    )

    samples = list(mixture)

    assert {sample.family for sample in samples} == {"sem_seg", "refer_seg", "vqa", "reason_seg"}
    assert all(np.array_equal(one.masks, other.masks) for one, other in zip(samples, mixture))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"dataset": "sem_seg||semseg"}, "unknown family 'semseg'; known are .*reason_seg"),
        ({"dataset": "sem_seg||vqa", "sample_rates": "1"}, "1 sample rates for 2 families"),
        ({"dataset": "sem_seg", "sample_rates": "x"}, "comma-separated"),
        ({"dataset": "sem_seg", "sample_rates": "-1"}, "from 0 up"),
        ({"dataset": "sem_seg", "sample_rates": "0"}, "not all 0"),
        ({"dataset": "sem_seg", "sample_rates": "1", "sem_seg_data": "ade"}, "unknown sem_seg data set 'ade'.*ade20k"),
        ({"dataset": "refer_seg", "sample_rates": "1", "refer_seg_data": "ref"}, "known are .*refcoco"),
        ({"dataset": "reason_seg", "sample_rates": "1", "reason_seg_data": "ReasonSeg"}, "ReasonSeg|train_val"),
        ({"dataset": "vqa", "sample_rates": "1", "vqa_data": "a||b"}, "one file"),
        ({"dataset": "vqa", "sample_rates": "1"}, "missing"),
        ({"dataset": "", "sample_rates": "1"}, "names no family"),
        ({"dataset": "vqa", "sample_rates": "1", "num_classes_per_sample": 0}, "num_classes_per_sample"),
        ({"dataset": "multi_reason_seg", "sample_rates": "1"}, "multi_reason_seg"),
    ],
)
def test_bad_settings_say_what_is_wrong(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        build_mixture(tmp_path, **arguments)
