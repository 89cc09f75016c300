"""Predictions and annotations of other tools, in and out: one format a file, registered here."""

from groundscore.exchange.coco import COCO
from groundscore.exchange.jsonl import JSONL
from groundscore.exchange.lmms_eval import LMMS_EVAL
from groundscore.exchange.mask_files import NPZ, PNG_FOLDER
from groundscore.exchange.predictions import Prediction, PredictionFormat, Predictions
from groundscore.exchange.sam3_agent import SAM3_AGENT
from groundscore.exchange.vision_reasoner import VISION_REASONER

# In the order in which `format_of` tries them; ours takes any file.
FORMATS: list[PredictionFormat] = [SAM3_AGENT, VISION_REASONER, LMMS_EVAL, COCO, NPZ, PNG_FOLDER, JSONL]

__all__ = ["FORMATS", "JSONL", "Prediction", "PredictionFormat", "Predictions"]
