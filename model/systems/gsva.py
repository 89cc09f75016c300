"""GSVA (Xia et al., CVPR 2024): LISA's prompt, and `[REJ]` for an expression without a target.

Tokens: `[SEG]` where there is a target, `[REJ]` where there is none; only `[SEG]` is decoded. The teacher-forced
decisions are in `Segmentation.decisions`.
"""

from model.systems.lisa import LISA


class GSVA(LISA):
    pass
