"""Scoring a model on a split, with exact counts on any number of processes; analysis of layers.

    evaluation set ─▶ questions ─▶ batches ─▶ model.force | model.generate ─▶ pixel counts ─▶ groundscore.scoring

Two protocols, and every report says which one it used:
- "given": the reference's. The answer with its targets is forced on the model; masks, and where a set has expressions
  without a target the choice between `[SEG]` and `[REJ]`, are scored.
- "generated": what a user gets. The model writes the answer (greedily), and the union of its masks is the prediction;
  an answer without `[SEG]` predicts nothing.

What needs no model is in `groundscore`.
"""
