"""Draw the example pictures of the dashboard in the miniature's world: python -m dashboard.draw_examples"""

import dataclasses

from PIL import Image

from dashboard.examples import PICTURES
from miniature.scenes import Scene, random_scene

SEEDS = {"houses": 9001, "traffic": 9005, "clocks": 9006, "shore": 9007}
SCALE = 2.8
QUALITY = 84


def enlarge(scene: Scene, scale: float) -> Scene:
    """The same scene, drawn larger."""
    objects = [
        dataclasses.replace(thing, x=thing.x * scale, y=thing.y * scale, radius=thing.radius * scale)
        for thing in scene.objects
    ]
    return Scene(
        width=round(scene.width * scale),
        height=round(scene.height * scale),
        upper=scene.upper,
        lower=scene.lower,
        horizon=round(scene.horizon * scale),
        seed=scene.seed,
        objects=objects,
    )


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, seed in SEEDS.items():
        picture = enlarge(random_scene(seed, counts=(3, 4)), SCALE).image
        Image.fromarray(picture).save(PICTURES / f"{name}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
