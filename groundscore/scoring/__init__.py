"""Scores of predictions, from pixel counts alone: no model and no torch.

    masks ─▶ counts (rows) ─▶ metrics (scores) ─▶ report (files), tables, gallery
             ▲                 └─ bootstrap (intervals) ─▶ comparison (of two reports)
    predictions (files)

A row holds the pixel counts of one expression (of one question for MUSE). Everything after the rows is a function of
them alone: processes gather rows, a killed evaluation goes on from its rows, two reports are compared by theirs.
"""

UNITS = ("expression", "ref", "object")  # what may have the weight of one in scores
