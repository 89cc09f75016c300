"""Scores of predictions: from pixel counts, without a model.

    masks ─▶ counts ─▶ rows ─▶ tables ─▶ metrics ─▶ scores ─▶ tabulating, report
                        ▲                   └─▶ bootstrap ─┘      └─▶ compare, gallery
    prediction_files ─▶ predictions

A row holds the pixel counts of one expression (of one question for MUSE). Everything after the rows is a function of
them alone: processes gather rows, a killed evaluation goes on from its rows, two reports are compared by theirs.
"""
