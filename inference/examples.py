"""Examples that travel with a model: `examples/` beside its weights, for its card, the dashboard and `--prompts`.

examples/questions.jsonl   a line per example: {"image": "1.jpg", "prompt": TEXT}
examples/1.jpg …           the images, upright and without metadata
examples/answers.png       what the model answered, drawn
"""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from checkpoints.card import CardExample
from checkpoints.files import EXAMPLES_FOLDER
from checkpoints.processing import GroundingProcessor
from groundscore.annotations.images import read_image
from groundscore.errors import UserError
from groundscore.writing import write_lines
from inference.many_questions import PromptLine, read_prompts
from inference.session import ChatSession
from model.grounding import GroundingModel
from utils.contact_sheet import SheetRow, contact_sheet, save_sheet

MOST = 4
ANSWERS, QUESTIONS = "answers.png", "questions.jsonl"


def read_examples(path: Path) -> list[PromptLine]:
    """Returns the first few questions of a file, in the form of `chat.py --prompts`.

    Raises `UserError` where one cannot be asked.
    """
    lines = read_prompts(path, None)[:MOST]
    for line in lines:
        if not isinstance(line, PromptLine):
            raise UserError(line.error)
        read_image(line.image)
    return lines


def write_examples(
    directory: Path, lines: Sequence[PromptLine], model: GroundingModel, processor: GroundingProcessor
) -> CardExample:
    """Answers the questions and writes `examples/` into a model's directory; returns what the card shows of it."""
    folder = directory / EXAMPLES_FOLDER
    folder.mkdir()
    session = ChatSession(model.eval(), processor)
    rows, questions = [], []
    for number, line in enumerate(lines, start=1):
        image = read_image(line.image)
        name = f"{number}.jpg"
        Image.fromarray(image).save(folder / name, quality=95)
        questions.append(json.dumps({"image": name, "prompt": line.prompt}, ensure_ascii=False) + "\n")
        reply = session.ask(image, (), line.prompt)
        shown = None if reply.maps is None or not len(reply.maps) else reply.maps[0]
        layer = reply.layers[0] if reply.layers else None
        rows.append(SheetRow(image, reply.masks, line.prompt, reply.text, similarity=shown, layer=layer))
    write_lines(folder / QUESTIONS, questions)
    save_sheet(contact_sheet(rows), folder / ANSWERS)
    return CardExample(f"{EXAMPLES_FOLDER}/{ANSWERS}", f"{EXAMPLES_FOLDER}/1.jpg", lines[0].prompt)
