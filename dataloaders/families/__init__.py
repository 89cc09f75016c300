"""One file per data-set type: annotations -> Sample. To add one: write its file and put it here.

docs/adding_a_data_set.md shows how.
"""

from dataloaders.families.custom import Custom
from dataloaders.families.false_premise_seg import CorrectReferSeg, NegReferSeg
from dataloaders.families.family import Family
from dataloaders.families.multi_reason_seg import MultiReasonSeg
from dataloaders.families.reason_seg import ReasonSeg
from dataloaders.families.reason_seg_plus import ReasonSegPlus
from dataloaders.families.refer_seg import ReferSeg
from dataloaders.families.sem_seg import SemSeg
from dataloaders.families.vqa import Vqa
from groundscore.errors import UserError
from groundscore.splits import READERS

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        SemSeg,
        ReferSeg,
        NegReferSeg,
        CorrectReferSeg,
        Vqa,
        ReasonSeg,
        ReasonSegPlus,
        MultiReasonSeg,
        Custom,
    )
}


def register(family: type[Family]) -> None:
    """Add a family of a plugin, with its evaluation sets. Raises `UserError` where its name is taken."""
    if family.name in FAMILIES:
        raise UserError(f"a data-set family {family.name!r} already exists; give yours another name")
    FAMILIES[family.name] = family
    READERS.extend(family.splits)
