"""SESAME (Wu et al., CVPR 2024): LISA's architecture; an absent object is denied or corrected in words.

Tokens: `[SEG]`; its absence from the answer means that the object is absent. States, prompt, own losses: LISA's. The
difference to LISA is in the data.
"""

from model.systems.lisa import LISA


class SESAME(LISA):
    """LISA on data whose false premises are answered in words."""
