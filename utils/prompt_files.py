"""Questions for `chat.py --prompts`: a JSONL file with a picture and a question per line."""

from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.reading import parse_json, read_lines


@dataclass(frozen=True)
class PromptLine:
    """One line: its number from 1, its `id` if it has one, the picture (relative to the file) and the question."""

    number: int
    id: str | None
    image: Path
    prompt: str


def read_prompts(path: Path, default_image: Path | None) -> list[PromptLine]:
    """All lines of `path`, checked before any is answered.

    A line is {"prompt": TEXT, "image": PATH, "id": TEXT}; without "image" it is about `default_image`. Empty lines are
    skipped.
    """
    found = [
        _parse(line, f"{path}, line {number}", number, path.parent, default_image)
        for number, line in read_lines(path, missing="--prompts names a file of questions")
    ]
    if not found:
        raise UserError(f"{path} has no questions; a line is {{'prompt': TEXT, 'image': PATH}}".replace("'", '"'))
    return found


def _parse(line: str, where: str, number: int, folder: Path, default_image: Path | None) -> PromptLine:
    value = parse_json(line, where, remedy='a line is {"prompt": TEXT, "image": PATH}')
    if not isinstance(value, dict):
        raise UserError(f'{where} is not an object like {{"prompt": TEXT, "image": PATH}}')
    unknown = sorted(set(value) - {"prompt", "image", "id"})
    if unknown:
        raise UserError(f"{where}: {unknown[0]!r} is not one of prompt, image, id")
    prompt, image, name = value.get("prompt"), value.get("image"), value.get("id")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f'{where} needs "prompt", a text that is not empty')
    if image is not None and (not isinstance(image, str) or not image):
        raise UserError(f'{where}: "image" is the path of a picture')
    if image is None and default_image is None:
        raise UserError(f'{where} has no "image"; give it one, or all lines one by --image')
    if name is not None and not isinstance(name, str | int):
        raise UserError(f'{where}: "id" is a text or a number')
    return PromptLine(
        number=number,
        id=None if name is None else str(name),
        image=default_image if image is None else folder / image,
        prompt=prompt.strip(),
    )
