"""The example images of the dashboard with a question about each; `python -m dashboard.examples` draws them again."""

from dataclasses import dataclass, replace
from pathlib import Path

IMAGES = Path(__file__).with_name("example_images")


@dataclass(frozen=True)
class Example:
    """An image file, a question about it, and the seed of its scene in the miniature's world."""

    image: Path
    question: str
    seed: int


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


def draw_examples() -> None:
    """Writes the image of every example."""
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
