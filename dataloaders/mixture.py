"""The training data: families mixed at given rates.

Item i of epoch e is drawn by a generator seeded with (seed, e, i) and by nothing else, so it does not depend on the
number of workers or processes, nor on what was drawn before, and a run resumes by counting.
"""

from collections.abc import Sequence
from ctypes import c_int64
from dataclasses import replace
from multiprocessing import RawValue
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.families import FAMILIES, Family
from dataloaders.families.family import MAX_TRIES
from dataloaders.sample import Sample
from dataloaders.settings import data_settings, rates_in_use
from groundscore.annotations.bad_entries import BadSamples, Tolerance, noting_repairs
from groundscore.annotations.index_cache import NotIndexed, build_in_parallel, only_opening
from groundscore.errors import UserError


class Mixture:
    """A map-style data set of `samples_per_epoch` items.

    families, rates: what to draw from and how often; rates need not add up to one.

    multi_turn_share: of the samples, to be `in_dialogues`.

    bad_samples: permits a few bad draws; another sample is drawn instead of each. None stops at the first and
        records no repair.

    `mixture[i]` is item i of the current epoch (`set_epoch`); `mixture[epoch, i]` is item i of the epoch that is named,
    for samplers that count epochs themselves.
    """

    def __init__(
        self,
        families: Sequence[Family],
        rates: Sequence[float],
        seed: int,
        *,
        samples_per_epoch: int = 10_000,
        multi_turn_share: float = 0.0,
        bad_samples: BadSamples | None = None,
    ):
        self.families = list(families)
        self.multi_turn_share = multi_turn_share
        self.probabilities = np.asarray(rates, np.float64) / np.sum(rates, dtype=np.float64)
        self.seed = seed
        self.bad_samples = bad_samples
        self._length = samples_per_epoch
        self._epoch = RawValue(c_int64, 0)  # seen by workers that are already running

    def set_epoch(self, epoch: int) -> None:
        """Make `mixture[i]` item i of `epoch`, in worker processes that are already running too."""
        self._epoch.value = epoch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        epoch, item = index if isinstance(index, tuple) else (self._epoch.value, index)
        if not 0 <= item < self._length:
            raise IndexError(item)
        rng = np.random.default_rng([self.seed, epoch, item])
        family = self.families[int(rng.choice(len(self.families), p=self.probabilities))]
        sample = family.draw(rng) if self.bad_samples is None else self._draw_leniently(family, rng)
        if self.multi_turn_share and rng.random() < self.multi_turn_share:
            return in_dialogues(sample, rng)
        return sample

    def _draw_leniently(self, family: Family, rng: np.random.Generator) -> Sample:
        """Draw from the family until a sample is good; what is drawn still depends on `rng` only."""
        for _ in range(MAX_TRIES):
            try:
                with noting_repairs() as repairs:
                    sample = family.draw(rng)
            except UserError as error:
                self.bad_samples.skip_draw(family.name, error, sum(family.sizes().values()))
                last = error
            else:
                self.bad_samples.count_draw(family.name, repairs)
                return sample
        raise UserError(f"{family.name}: {MAX_TRIES} draws in a row were bad. The last one: {last}") from last


def in_dialogues(sample: Sample, rng: np.random.Generator) -> Sample:
    """Returns the sample with two or three of its conversations after one another in each: a question that follows
    others is answered as one that comes first only by who has learned both."""
    conversations, left = [], list(sample.conversations)
    while left:
        size = int(rng.integers(2, 4))
        conversations.append(tuple(turn for turns in left[:size] for turn in turns))
        left = left[size:]
    return replace(sample, conversations=conversations)


def build_mixture(
    dataset_dir: str | Path,
    *,
    seed: int = 42,
    samples_per_epoch: int = 10_000,
    bad_samples_file: Path | None = None,
    **settings: Any,
) -> Mixture:
    """Returns the mixture that `settings` describe: flags by their names, as the families and the mixture declare them.

    bad_samples_file: lists what was left out or repaired; None keeps no record.

    A family whose rate is 0 is known by name and otherwise left alone: its files need not exist.
    """
    root, chosen = Path(dataset_dir), data_settings(**settings)
    rates = rates_in_use(chosen)
    used = [FAMILIES[name] for name in rates]
    for family in used:
        family.check(chosen)

    def mix() -> Mixture:
        # Under any name that COCO gives an image, and in every family.
        held_out = [family.held_out(root, chosen) for family in used] if chosen.exclude_val else []
        bad_samples = BadSamples(Tolerance(chosen.skip_bad_samples), bad_samples_file)
        options = {"excluded": frozenset().union(*held_out), "bad_samples": bad_samples}
        return Mixture(
            [family(root, chosen, **options) for family in used],
            list(rates.values()),
            seed,
            samples_per_epoch=samples_per_epoch,
            multi_turn_share=chosen.multi_turn_share,
            bad_samples=bad_samples,
        )

    try:
        with only_opening():
            return mix()
    except NotIndexed:
        build_in_parallel(root, [opening for family in used for opening in family.openings(root, chosen)])
    return mix()
