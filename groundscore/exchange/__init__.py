"""Predictions and annotations of other tools, in and out: one format a file, registered here."""

from groundscore.exchange.jsonl import JSONL
from groundscore.exchange.predictions import Prediction, PredictionFormat, Predictions

# In the order in which `format_of` tries them; ours takes any file.
FORMATS: list[PredictionFormat] = [JSONL]

__all__ = ["FORMATS", "JSONL", "Prediction", "PredictionFormat", "Predictions"]
