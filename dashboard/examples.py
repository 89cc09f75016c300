"""The examples of the dashboard: images with a question about each, those of a checkpoint or the shipped ones.

`python -m dashboard.examples` draws the shipped images again.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from groundscore.errors import UserError

log = logging.getLogger(__name__)

IMAGES = Path(__file__).with_name("example_images")
FOLDER, QUESTIONS = "examples", "questions.jsonl"
MOST = 12


@dataclass(frozen=True)
class Example:
    """An image file, a question about it, and for a shipped one the seed of its scene in the miniature's world."""

    image: Path
    question: str
    seed: int | None = None


EXAMPLES = (
    Example(
        IMAGES / "houses.jpg", "What is the large orange house in this image? Please output segmentation mask.", 9001
    ),
    Example(IMAGES / "clocks.jpg", "Where is the red clock?", 9006),
    Example(
        IMAGES / "traffic.jpg",
        "What is the object that people drive on a road in this image? Please output segmentation mask.",
        9005,
    ),
    Example(
        IMAGES / "shore.jpg", "What is the large purple ball in this image? Please output segmentation mask.", 9007
    ),
)
SCALE = 2.8  # of the miniature's own images


def checkpoint_examples(version: str | None) -> tuple[Example, ...]:
    """The examples beside a checkpoint, `DIR/examples/questions.jsonl` in the form that `chat.py --prompts` reads.

    Without such a file, or where nothing in it can be used, they are the shipped ones. Images are taken only from
    that folder.
    """
    folder = Path(version or "", FOLDER)
    if version is None or not (folder / QUESTIONS).is_file():
        return EXAMPLES
    from inference.many_questions import PromptLine, read_prompts

    try:
        lines = read_prompts(folder / QUESTIONS, None)
    except UserError as error:
        log.warning("examples: %s", error)
        return EXAMPLES
    found = [
        Example(line.image, line.prompt)
        for line in lines
        if isinstance(line, PromptLine) and line.image.is_file() and line.image.resolve().parent == folder.resolve()
    ]
    return tuple(found[:MOST]) or EXAMPLES


def draw_examples() -> None:
    """Writes the image of every shipped example."""
    from PIL import Image

    from miniature.scenes import random_scene

    IMAGES.mkdir(exist_ok=True)
    for example in EXAMPLES:
        scene = random_scene(example.seed, counts=(3, 4))
        enlarged = replace(
            scene,
            width=round(scene.width * SCALE),
            height=round(scene.height * SCALE),
            horizon=round(scene.horizon * SCALE),
            objects=[
                replace(thing, x=thing.x * SCALE, y=thing.y * SCALE, radius=thing.radius * SCALE)
                for thing in scene.objects
            ],
        )
        Image.fromarray(enlarged.image).save(example.image, quality=84, optimize=True)


if __name__ == "__main__":
    draw_examples()
