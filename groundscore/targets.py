"""The tokens that texts of data sets may hold: `[SEG]` and `[REJ]` for targets, and LLaVA's image placeholder."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

from groundscore.errors import UserError, shown

SEG = "[SEG]"  # a target that is in the image
REJ = "[REJ]"  # one that is not
TARGET = re.compile(re.escape(SEG) + "|" + re.escape(REJ))
IMAGE_PLACEHOLDER = "<image>"


def target_kinds(answers: str) -> "np.ndarray":
    """Returns for every target in a text, in order, whether it is a `[SEG]`: bool [N]."""
    import numpy as np

    return np.array([token == SEG for token in TARGET.findall(answers)], dtype=bool)


def refuse_targets(text: str, where: str) -> str:
    """Returns `text`, which comes from a file and is to be read as words: a token in it would become a target."""
    if "[" in text and TARGET.search(text):
        raise UserError(f"{where}: {SEG} and {REJ} may not be written out in {shown(text, 80)}")
    return text


def join_names(names: Sequence[str]) -> str:
    """Returns "a", "a and b", or "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]
