"""Scores of predictions, from pixel counts alone: no model and no torch.

    masks ─▶ scorer ─▶ counts (rows) ─▶ metrics (scores) ─▶ report (files), tables, gallery
                                         └─ bootstrap (intervals) ─▶ comparison (of reports)

A row holds the pixel counts of one expression (of one question for MUSE). Everything after the rows is a function of
them alone: processes gather rows, a killed evaluation goes on from its rows, reports are compared by theirs.
"""

UNITS = ("expression", "ref", "object")  # what may have the weight of one in scores
