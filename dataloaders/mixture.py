"""The training data: families mixed at given rates.

Item i of epoch e is drawn by a generator seeded with (seed, e, i) and by nothing else, so it does not depend on the
number of workers or processes, nor on what was drawn before, and a run resumes by counting.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dataloaders.families import Family, look_up, split_names
from dataloaders.reason_seg import ReasonSeg
from dataloaders.refer_seg import ReferSeg
from dataloaders.sample import Sample
from dataloaders.sem_seg import SemSeg
from dataloaders.vqa import Vqa
from utils.errors import UserError


class Mixture(Dataset):
    """A map-style data set of `samples_per_epoch` items.

    families, rates: what to draw from and how often; rates need not add up to one.

    `mixture[i]` is item i of the current epoch (`set_epoch`); `mixture[epoch, i]` is item i of the epoch that is named,
    for samplers that count epochs themselves.
    """

    def __init__(
        self, families: Sequence[Family], rates: Sequence[float], seed: int, *, samples_per_epoch: int = 10_000
    ):
        self.families = list(families)
        self.probabilities = normalised_rates(rates, len(self.families))
        self.seed = seed
        self._length = samples_per_epoch
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that are already running

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        epoch, item = index if isinstance(index, tuple) else (int(self._epoch), index)
        if not 0 <= item < self._length:
            raise IndexError(item)
        rng = np.random.default_rng([self.seed, epoch, item])
        family = self.families[int(rng.choice(len(self.families), p=self.probabilities))]
        return family.draw(rng)


def normalised_rates(rates: Sequence[float], count: int) -> np.ndarray:
    """Rates as probabilities; an error where they are not one non-negative number for each of `count` families."""
    if len(rates) != count:
        raise UserError(
            f"{len(rates)} sample rates for {count} families; --sample_rates needs one for each of --dataset"
        )
    values = np.asarray(rates, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise UserError(f"sample rates are numbers from 0 up, and not all 0; they are {', '.join(map(str, rates))}")
    return values / values.sum()


def parse_rates(text: str | Sequence[float]) -> list[float]:
    """The numbers in "12,9,3"."""
    if not isinstance(text, str):
        return [float(rate) for rate in text]
    try:
        return [float(rate) for rate in text.split(",")]
    except ValueError as error:
        raise UserError(f"--sample_rates is a comma-separated list of numbers, not {text!r}") from error


def build_mixture(
    dataset_dir: str | Path,
    *,
    dataset: str = "sem_seg||refer_seg||vqa||reason_seg",
    sample_rates: str | Sequence[float] = "9,3,3,1",
    sem_seg_data: str = "ade20k",
    refer_seg_data: str = "refclef||refcoco||refcoco+||refcocog||grefcoco",
    vqa_data: str = "llava_instruct_150k",
    reason_seg_data: str = "ReasonSeg|train",
    num_classes_per_sample: int = 3,
    num_classes_per_question: int = 1,
    explanatory: float = 0.1,
    negative_sampling_weight: float = -1.0,
    use_expand_question_list: bool = False,
    seed: int = 42,
    samples_per_epoch: int = 10_000,
) -> Mixture:
    """The mixture that the command line describes; the arguments are the flags of the same names.

    A family whose rate is 0 is known by name and otherwise left alone: its files need not exist.
    """
    root = Path(dataset_dir)
    for flag, value in {
        "--num_classes_per_sample": num_classes_per_sample,
        "--num_classes_per_question": num_classes_per_question,
    }.items():
        if value < 1:
            raise UserError(f"{flag} is at least 1, not {value}")
    per_sample = {
        "num_classes_per_sample": num_classes_per_sample,
        "num_classes_per_question": num_classes_per_question,
    }
    expand = {"use_expand_question_list": use_expand_question_list}

    def not_yet(name: str) -> Callable[[], Family]:
        def refuse() -> Family:
            raise UserError(f"family {name} cannot be drawn from in this version; give it rate 0 or leave it out")

        return refuse

    builders: dict[str, Callable[[], Family]] = {
        "sem_seg": lambda: SemSeg(
            root, sem_seg_data, negative_sampling_weight=negative_sampling_weight, **per_sample, **expand
        ),
        "refer_seg": lambda: ReferSeg(root, refer_seg_data, **per_sample, **expand),
        "vqa": lambda: Vqa(root, vqa_data),
        "reason_seg": lambda: ReasonSeg(
            root, reason_seg_data, num_sentences=num_classes_per_sample, explanatory=explanatory, **expand
        ),
        **{
            name: not_yet(name)
            for name in ("neg_refer_seg", "correct_refer_seg", "reason_seg_plus", "multi_reason_seg")
        },
    }
    names = split_names(dataset)
    if not names:
        raise UserError(f"--dataset names no family; known are {', '.join(sorted(builders))}")
    chosen = [look_up(name, builders, "family") for name in names]
    rates = parse_rates(sample_rates)
    normalised_rates(rates, len(names))
    used = [(build(), rate) for build, rate in zip(chosen, rates) if rate > 0]
    families, used_rates = zip(*used)
    return Mixture(families, used_rates, seed, samples_per_epoch=samples_per_epoch)
