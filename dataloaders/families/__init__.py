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
from groundscore.names import add_new
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


def register(family: type[Family]) -> type[Family]:
    """Adds the family of a plugin, with its evaluation sets, under its name; a decorator."""
    add_new(FAMILIES, family.name, family, "data-set family")
    READERS.extend(reader for reader in family.splits if reader not in READERS)
    return family
