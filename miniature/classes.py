"""Score semantic classes: `python -m miniature.classes --version CHECKPOINT`.

Every class that a new scene shows, its grounds too, is asked for by name, as the semantic sets ask in training; the
mask of the answer is compared with all pixels of that class. The options that name the model are those of `eval.py`.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from groundscore.errors import run_main
from groundscore.pools import fill, pick, read_pool
from groundscore.scoring import percent
from groundscore.scoring.counts import mask_iou
from groundscore.scoring.tables import markdown_table
from groundscore.writing import write_json
from inference.model_flags import load_flagged_model
from miniature.region_sets import class_labels, class_names
from miniature.scenes import Scene, random_scene
from miniature.words import scene_parser


def main(argv: Sequence[str]) -> None:
    """Asks, compares and prints."""
    options = scene_parser("classes", __doc__).parse_args(argv)
    scores = score(options)
    rows = [[name, str(one["asked"]), percent(one["gIoU"])] for name, one in scores.items()]
    print(markdown_table([["class", "asked", "gIoU"], *rows]))
    if options.output:
        write_json(options.output, scores)


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


if __name__ == "__main__":
    run_main(main)
