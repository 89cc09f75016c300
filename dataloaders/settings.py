"""The settings of the training data: those of the mixture, and those that each family declares."""

import math
from dataclasses import dataclass
from typing import Any

from dataloaders.families import FAMILIES
from groundscore.annotations.bad_entries import DEFAULT_SHARE, Tolerance
from groundscore.errors import UserError
from groundscore.names import look_up, split_names
from utils.settings import SHARE, at_least, check_settings, compose, option, settings_of

_RATES = {name: family.rate for name, family in FAMILIES.items() if family.rate}
ALL_FAMILIES = "||".join(_RATES)  # of the default mixture


@dataclass
class MixtureSettings:
    """What all families have in common."""

    dataset: str = option(
        ALL_FAMILIES,
        "data",
        f"families to train on, joined by ||: {', '.join(FAMILIES)}; custom is your own data",
        default_text="all others",
        common=True,
    )
    sample_rates: str = option(",".join(map(str, _RATES.values())), "data", "one weight per family", common=True)
    num_classes_per_sample: int = option(3, "data", "expressions drawn per image", check=at_least(1))
    num_classes_per_question: int = option(1, "data", "expressions asked for in one question", check=at_least(1))
    use_expand_question_list: bool = option(False, "data", "more question templates")
    multi_turn_share: float = option(
        0.0,
        "data",
        "share of the samples whose questions follow one another, two or three conversations in one dialogue",
        check=SHARE,
    )
    fast_decode: int = option(
        0,
        "data",
        "decode a JPEG at a half, a quarter or an eighth of its size where its longer side keeps as many pixels, 1024 "
        "for SAM; faster, its pixels are not quite the same; 0 is off",
        check=at_least(0),
    )
    exclude_val: bool = option(
        False,
        "data",
        "leave out the images that the referring sets in use have in other splits, in every family",
    )
    skip_bad_samples: float = option(
        DEFAULT_SHARE,
        "data",
        "share of entries without a usable image or mask to leave out and list in the run's bad_samples.jsonl; 0 stops "
        "at the first",
    )

    def check(self) -> None:
        """Raise `UserError` for families and rates that contradict each other, or settings of a family in use."""
        Tolerance(self.skip_bad_samples)
        for name in rates_in_use(self):
            FAMILIES[name].check(self)


def rates_in_use(settings: Any) -> dict[str, float]:
    """Returns the rates of the families that `--dataset` names and whose rate is above 0.

    Raises `UserError` for an unknown family, and for rates that are not one for each family.
    """
    names = split_names(settings.dataset)
    if not names:
        raise UserError(f"--dataset names no family; known are {', '.join(sorted(FAMILIES))}")
    for name in names:
        look_up(name, FAMILIES, "family")
    if len(set(names)) != len(names):
        raise UserError(f"--dataset {settings.dataset} names a family twice")
    try:
        rates = [float(rate) for rate in settings.sample_rates.split(",")]
    except ValueError:
        raise UserError(f"--sample_rates {settings.sample_rates}: expected numbers joined by commas") from None
    if len(rates) != len(names):
        raise UserError(
            f"--sample_rates {settings.sample_rates} has {len(rates)} numbers, "
            f"but --dataset {settings.dataset} has {len(names)} families; give one number per family"
        )
    if not all(0 <= rate < math.inf for rate in rates) or sum(rates) == 0:
        raise UserError(
            f"--sample_rates {settings.sample_rates}: numbers must not be negative, and one must be above 0"
        )
    return {name: rate for name, rate in zip(names, rates) if rate > 0}


def declared_data() -> tuple[type, ...]:
    """Returns the dataclasses that declare the settings of the data, those of plugins' families among them."""
    return (MixtureSettings, *(family.Settings for family in FAMILIES.values()))


def data_settings(**given: Any) -> Any:
    """Returns an object with all settings of the data as attributes, those not given at their defaults.

    `sample_rates` may be a list of numbers. Raises `UserError` for a value out of its range.
    """
    if not isinstance(given.get("sample_rates", ""), str):
        given["sample_rates"] = ",".join(map(str, given["sample_rates"]))
    known = settings_of(*declared_data())
    unknown = given.keys() - known
    if unknown:
        raise UserError(f"there is no setting {sorted(unknown)[0]!r} of the data")
    settings = compose("DataSettings", *declared_data())(**given)
    check_settings(vars(settings), known)
    return settings
