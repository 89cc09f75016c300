"""The training data: families mixed at given rates.

Item i of epoch e is drawn by a generator seeded with (seed, e, i) and by nothing else, so it does not depend on the
number of workers or processes, nor on what was drawn before, and a run resumes by counting.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dataloaders.families.custom import Custom
from dataloaders.families.false_premise_seg import FalsePremiseSeg
from dataloaders.families.family import MAX_TRIES, Family
from dataloaders.families.multi_reason_seg import MultiReasonSeg
from dataloaders.families.reason_seg import ReasonSeg
from dataloaders.families.reason_seg_plus import ReasonSegPlus
from dataloaders.families.refer_seg import ReferSeg
from dataloaders.families.sem_seg import SemSeg
from dataloaders.families.vqa import Vqa
from dataloaders.sample import Sample
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS
from groundscore.annotations.refer_index import held_out_pictures
from groundscore.annotations.repairs import DEFAULT_SHARE, Tolerance, noting_repairs
from groundscore.errors import UserError
from groundscore.names import look_up, split_names

ALL_FAMILIES = (
    "sem_seg||refer_seg||neg_refer_seg||correct_refer_seg||vqa||reason_seg||reason_seg_plus||multi_reason_seg"
)


class Mixture(Dataset):
    """A map-style data set of `samples_per_epoch` items.

    families, rates: what to draw from and how often; rates need not add up to one.

    bad_samples: lets a few bad draws pass; another sample is drawn in the place of each. None stops at the first and
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
        bad_samples: BadSamples | None = None,
    ):
        self.families = list(families)
        self.probabilities = normalised_rates(rates, len(self.families))
        self.seed = seed
        self.bad_samples = bad_samples
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
        if self.bad_samples is None:
            return family.draw(rng)
        return self._draw_leniently(family, rng)

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
    dataset: str = ALL_FAMILIES,
    sample_rates: str | Sequence[float] = "12,9,3,3,3,3,3,3",
    sem_seg_data: str = "ade20k||cocostuff||pascal_part||paco_lvis||mapillary",
    refer_seg_data: str = "refclef||refcoco||refcoco+||refcocog||refzom||grefcoco",
    neg_refer_seg_data: str = "R-refcoco||R-refcoco+||R-refcocog",
    correct_refer_seg_data: str = "fprefcoco||fprefcoco+||fprefcocog",
    vqa_data: str = "llava_instruct_150k",
    reason_seg_data: str = "ReasonSeg|train",
    reason_seg_plus_data: str = "instance_seg||cot||conversations||caption",
    multi_reason_seg_data: str = "MultiReasonSeg|train",
    custom_data: str = "",
    num_classes_per_sample: int = 3,
    num_classes_per_question: int = 1,
    explanatory: float = 0.1,
    negative_sampling_weight: float = -1.0,
    use_expand_question_list: bool = False,
    exclude_val: bool = False,
    skip_bad_samples: float = DEFAULT_SHARE,
    bad_samples_file: Path | None = None,
    seed: int = 42,
    samples_per_epoch: int = 10_000,
) -> Mixture:
    """The mixture that the command line describes; the arguments are the flags of the same names.

    exclude_val: leave out the pictures that the referring sets in use have in their other splits, under any name that
        COCO gives them and in every family.
    skip_bad_samples: the share of bad entries that is left out, see `Tolerance`.
    bad_samples_file: lists what was left out or repaired; None keeps no record.

    A family whose rate is 0 is known by name and otherwise left alone: its files need not exist.
    """
    root = Path(dataset_dir)
    for flag, value in {
        "--num_classes_per_sample": num_classes_per_sample,
        "--num_classes_per_question": num_classes_per_question,
    }.items():
        if value < 1:
            raise UserError(f"{flag} is at least 1, not {value}")
    bad_samples = BadSamples(Tolerance(skip_bad_samples), bad_samples_file)
    lenient = {"bad_samples": bad_samples}
    per_sample = {
        "num_classes_per_sample": num_classes_per_sample,
        "num_classes_per_question": num_classes_per_question,
    }
    expand = {"use_expand_question_list": use_expand_question_list}
    false_premise_data = {"neg_refer_seg": neg_refer_seg_data, "correct_refer_seg": correct_refer_seg_data}

    def false_premises(name: str, coco: dict) -> Family:
        data = false_premise_data[name]
        return FalsePremiseSeg(root, data, name=name, num_sentences=num_classes_per_sample, **coco, **lenient)

    # Each makes its family, given what to leave out of COCO's pictures.
    builders: dict[str, Callable[[dict], Family]] = {
        "sem_seg": lambda coco: SemSeg(
            root,
            sem_seg_data,
            negative_sampling_weight=negative_sampling_weight,
            **per_sample,
            **expand,
            **coco,
            **lenient,
        ),
        "refer_seg": lambda coco: ReferSeg(root, refer_seg_data, **per_sample, **expand, **coco, **lenient),
        "neg_refer_seg": lambda coco: false_premises("neg_refer_seg", coco),
        "correct_refer_seg": lambda coco: false_premises("correct_refer_seg", coco),
        "vqa": lambda coco: Vqa(root, vqa_data, **coco, **lenient),
        "reason_seg": lambda coco: ReasonSeg(
            root, reason_seg_data, num_sentences=num_classes_per_sample, explanatory=explanatory, **expand
        ),
        "reason_seg_plus": lambda coco: ReasonSegPlus(
            root, reason_seg_plus_data, num_turns=num_classes_per_sample, **coco, **lenient
        ),
        "multi_reason_seg": lambda coco: MultiReasonSeg(root, multi_reason_seg_data, **expand, **coco, **lenient),
        "custom": lambda coco: Custom(root, custom_data, **lenient),
    }
    names = split_names(dataset)
    if not names:
        raise UserError(f"--dataset names no family; known are {', '.join(sorted(builders))}")
    for name in names:
        look_up(name, builders, "family")
    rates = parse_rates(sample_rates)
    normalised_rates(rates, len(names))
    used = [(name, rate) for name, rate in zip(names, rates) if rate > 0]
    excluded: set[int] = set()
    if exclude_val:
        in_use = {name for name, _ in used}
        if "refer_seg" in in_use:
            excluded |= held_out_pictures(root, split_names(refer_seg_data), REFER_SETS)
        for name in in_use & set(false_premise_data):
            excluded |= held_out_pictures(root, split_names(false_premise_data[name]), FALSE_PREMISE_SETS)
    families = [builders[name]({"excluded": frozenset(excluded)}) for name, _ in used]
    used_rates = [rate for _, rate in used]
    return Mixture(families, used_rates, seed, samples_per_epoch=samples_per_epoch, bad_samples=bad_samples)
