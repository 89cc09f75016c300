"""GSVA (Xia et al., CVPR 2024): LISA's prompt, and `[REJ]` for an expression without a target.

Tokens: `[SEG]` where there is a target, `[REJ]` where there is none; only `[SEG]` is decoded. The teacher-forced
decisions between the two are in `Segmentation.decisions`. States, prompt, own losses: LISA's.
"""

from model.systems.lisa import LISA


class GSVA(LISA):
    """LISA on data whose no-target expressions are answered with `[REJ]`."""
