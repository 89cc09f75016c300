"""A contact sheet of the miniature's scenes with their expressions and questions."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from groundscore.drawing import overlay
from miniature.language import pick_referring, reasoning
from miniature.scenes import Scene, random_scene
from utils.contact_sheet import save_sheet

COLUMNS, ROWS = 4, 3
CELL, TEXT, GAP = 220, 92, 16


def draw_sheet(path: Path, *, seed: int) -> None:
    """Write a PNG of scenes with outlined objects; below, an expression for each and a reasoning question in grey."""
    sheet = Image.new("RGB", (COLUMNS * (CELL + GAP) + GAP, ROWS * (CELL + TEXT + GAP) + GAP), "white")
    for number in range(COLUMNS * ROWS):
        rng = np.random.default_rng([seed, number])
        row, column = divmod(number, COLUMNS)
        cell = _cell(random_scene(int(rng.integers(2**31))), rng)
        sheet.paste(cell, (GAP + column * (CELL + GAP), GAP + row * (CELL + TEXT + GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(sheet, path)


def _cell(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """One scene and its lines of text."""
    masks = np.stack([scene.mask(index) for index in range(len(scene.objects))])
    image = Image.fromarray(overlay(scene.image, masks, alpha=0.0))
    scale = CELL / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, CELL + TEXT), "white")
    cell.paste(image, ((CELL - image.width) // 2, CELL - image.height))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(12)
    for index in range(len(masks)):
        text = "".join(pick_referring(scene, index, 1, rng)) or f"a {scene.objects[index].category}"
        draw.text((0, CELL + 4 + 15 * index), text, fill=(30, 30, 34), font=font)
    question = reasoning(scene, rng, is_sentence=False, held_out=None)
    draw.text((0, CELL + 6 + 15 * len(masks)), question.text, fill=(110, 110, 118), font=font)
    return cell
