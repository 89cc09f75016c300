"""Score semantic classes: `python -m miniature.classes --version CHECKPOINT`.

Every class that a new scene shows, its grounds too, is asked for by name, as the semantic sets ask in training; the
mask of the answer is compared with all pixels of that class. The options that name the model are those of `eval.py`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groundscore.errors import run_main
from groundscore.flags import PageHelp, count
from groundscore.pools import fill, pick, read_pool
from groundscore.scoring.counts import mask_iou
from groundscore.scoring.tables import markdown_table
from inference.model_flags import add_model_flags, load_flagged_model
from miniature.region_sets import class_labels, class_names
from miniature.scenes import Scene, random_scene


def main(argv: Sequence[str]) -> None:
    """Asks, compares and prints."""
    parser = argparse.ArgumentParser(prog="python -m miniature.classes", description=__doc__, formatter_class=PageHelp)
    add_model_flags(parser)
    parser.add_argument("--scenes", type=count, default=40, help="scenes to ask about (40)")
    parser.add_argument("--seed", type=count, default=0, help="of the scenes; they are in no data set (0)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the scores")
    options = parser.parse_args(argv)
    scores = score(options)
    rows = [
        ["class", "asked", "gIoU"],
        *([name, str(one["asked"]), _share(one["gIoU"])] for name, one in scores.items()),
    ]
    print(markdown_table(rows))
    if options.output:
        options.output.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def score(options: argparse.Namespace) -> dict[str, dict]:
    """How often each class, and all, were asked for, and the mean IoU of the masks; None where nothing was asked."""
    from inference.session import ChatSession

    session = ChatSession(*load_flagged_model(options), max_new_tokens=64)
    questions = read_pool("short_questions", ("{class_name}",))
    rng = np.random.default_rng([options.seed, len(questions)])
    found: dict[str, list[float]] = {name: [] for name in class_names()}
    for scene_seed in rng.integers(2**31, size=options.scenes):
        scene = random_scene(int(scene_seed))
        truths = class_masks(scene)
        prompts = [fill(pick(rng, questions), class_name=name) for name in truths]
        for (name, truth), reply in zip(truths.items(), session.ask_each(scene.image, prompts), strict=True):
            found[name].append(mask_iou(reply.masks.any(axis=0), truth))  # several masks: all that they cover
    found["all"] = [iou for ious in found.values() for iou in ious]
    return {name: {"asked": len(ious), "gIoU": float(np.mean(ious)) if ious else None} for name, ious in found.items()}


def class_masks(scene: Scene) -> dict[str, np.ndarray]:
    """bool [H, W] by name of every class that the scene shows."""
    values = {name: number for number, name in enumerate(class_names())}
    labels = class_labels(scene, values)
    return {name: labels == value for name, value in values.items() if (labels == value).any()}


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    run_main(main)
