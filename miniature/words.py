"""Score answers in words: `python -m miniature.words --version CHECKPOINT`.

New scenes are asked about colours, numbers, places and uses, each time with one right answer in words, so that an
answer is right or wrong as it stands, and wrong where it has a mask. The options that name the model are those of
`eval.py`.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from groundscore.errors import run_main
from groundscore.flags import PageHelp, count
from groundscore.scoring import percent
from groundscore.scoring.tables import markdown_table
from groundscore.writing import write_json
from inference.model_flags import add_model_flags, load_flagged_model
from miniature.language import QUESTIONS, ask
from miniature.scenes import Scene, random_scene


def main(argv: Sequence[str]) -> None:
    """Asks, counts and prints."""
    options = scene_parser("words", __doc__).parse_args(argv)
    scores = score(options)
    rows = [["kind", "right", "of", "share", "with a mask"]]
    for kind, one in scores.items():
        share = one["right"] / one["asked"] if one["asked"] else None
        rows.append([kind, str(one["right"]), str(one["asked"]), percent(share), str(one["masked"])])
    print(markdown_table(rows))
    if options.output:
        write_json(options.output, scores)


def scene_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m miniature.NAME`, which asks a model about new scenes; description: the module's
    docstring."""
    parser = argparse.ArgumentParser(
        prog=f"python -m miniature.{name}", description=description, formatter_class=PageHelp
    )
    add_model_flags(parser)
    parser.add_argument("--scenes", type=count, default=40, help="scenes to ask about (40)")
    parser.add_argument("--seed", type=count, default=0, help="of the scenes; they are in no data set (0)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the scores, and wrong answers in words")
    return parser


def score(options: argparse.Namespace) -> dict[str, dict]:
    """What came of the questions of each kind, and of all: how many were asked, answered rightly, and with a mask, and
    the wrong answers."""
    from inference.session import ChatSession

    session = ChatSession(*load_flagged_model(options), max_new_tokens=64)
    scores = {kind: {"asked": 0, "right": 0, "masked": 0, "wrong": []} for kind in (*QUESTIONS, "all")}
    for scene, pairs in questions(options.scenes, options.seed):
        replies = session.ask_each(scene.image, [question for _, question, _ in pairs])
        for (kind, question, answer), reply in zip(pairs, replies, strict=True):
            is_right = reply.text == answer and len(reply.masks) == 0
            for one in (scores[kind], scores["all"]):
                one["asked"] += 1
                one["right"] += is_right
                one["masked"] += len(reply.masks) > 0
            if not is_right:
                scores[kind]["wrong"].append({"question": question, "answer": answer, "written": reply.text})
    return scores


def questions(scenes: int, seed: int) -> Iterator[tuple[Scene, list[tuple[str, str, str]]]]:
    """Scenes, each with a question of every kind that it has: (kind, question, answer)."""
    rng = np.random.default_rng([seed, len(QUESTIONS)])
    for scene_seed in rng.integers(2**31, size=scenes):
        scene = random_scene(int(scene_seed))
        asked = [(kind, ask(kind, scene, rng)) for kind in QUESTIONS]
        yield scene, [(kind, *pair) for kind, pair in asked if pair is not None]


if __name__ == "__main__":
    run_main(main)
