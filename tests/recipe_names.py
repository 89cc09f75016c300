"""The names of the recipes and of their scripts' folders, and what a recipe comes to as settings."""

from functools import cache

from model.systems import SYSTEMS
from training.arguments import parse_arguments
from training.config import TrainingConfig

LARGE = ("7b_reason_seg_val", "7b_reason_seg_test", "7b_refer_seg", "7b_grefer_seg", "13b_reason_seg_val",
         "13b_reason_seg_test")  # fmt: skip
FOLDERS = (*LARGE, "miniature")
UGROUND = [f"uground_{base}_{baseline}" for base in ("llava1.5", "llava1.6") for baseline in ("ema", "critic")]
# Folders of the other backbones, and their recipes; all have scripts of UGround alone.
BACKBONES = ("qwen2.5-vl-7b", "qwen3-vl-8b", "internvl3-8b")
OF_BACKBONES = (*(f"{folder}/uground" for folder in BACKBONES), "qwen3-vl-8b/uground_sam2.1")
OTHERS = [system.lower() for system in SYSTEMS if system != "UGround"]


def recipe_of(folder: str, name: str) -> str:
    """The recipe that the scripts of `name` in a folder use: the other systems have one per size."""
    return f"{folder}/{name}" if name in UGROUND else f"{folder.partition('_')[0]}/{name}"


@cache
def settings(recipe: str) -> TrainingConfig:
    return parse_arguments(["--recipe", recipe])
