"""The settings of the training data: those of the mixture, and those that each family declares."""

from dataclasses import dataclass
from typing import Any

from dataloaders.families import FAMILIES
from groundscore.annotations.repairs import DEFAULT_SHARE
from groundscore.errors import UserError
from utils.settings import at_least, check_settings, compose, option, settings_of

_RATES = {name: family.rate for name, family in FAMILIES.items() if family.rate}
ALL_FAMILIES = "||".join(_RATES)  # of the default mixture


@dataclass
class MixtureSettings:
    """What all families have in common."""

    dataset: str = option(
        ALL_FAMILIES,
        "data",
        "families to train on, joined by ||; beside these there is custom, your own data",
    )
    sample_rates: str = option(",".join(map(str, _RATES.values())), "data", "one weight per family")
    num_classes_per_sample: int = option(3, "data", "expressions drawn per image", check=at_least(1))
    num_classes_per_question: int = option(1, "data", "expressions asked for in one question", check=at_least(1))
    use_expand_question_list: bool = option(False, "data", "more question templates")
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


def declared_data() -> tuple[type, ...]:
    """Returns the dataclasses that declare the settings of the data, those of plugins' families among them."""
    return (MixtureSettings, *(family.Settings for family in FAMILIES.values()))


def data_settings(**given: Any) -> Any:
    """Returns an object with all settings of the data as attributes, those not given at their defaults.

    Raises `UserError` for a value out of its range.
    """
    known = settings_of(*declared_data())
    unknown = given.keys() - known
    if unknown:
        raise UserError(f"there is no setting {sorted(unknown)[0]!r} of the data")
    settings = compose("DataSettings", *declared_data())(**given)
    check_settings(vars(settings), known)
    return settings
