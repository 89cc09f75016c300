"""Questions for `chat.py --prompts`: a JSONL file with an image and a question per line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.reading import parse_json, read_bytes

EXAMPLE = '{"prompt": TEXT, "image": PATH}'


@dataclass(frozen=True)
class PromptLine:
    """One line: its number from 1, its `id` if it has one, the image (relative to the file) and the question."""

    number: int
    id: str | None
    image: Path
    prompt: str


@dataclass(frozen=True)
class BadLine:
    """A line that asks nothing that can be answered, and why: a message that names file and line."""

    number: int
    error: str


def read_prompts(path: Path, default_image: Path | None) -> list[PromptLine | BadLine]:
    """All lines of `path`; a line that is wrong costs itself only.

    A line is {"prompt": TEXT, "image": PATH, "id": TEXT}; without "image" it is about `default_image`. Lines end at
    newlines, empty ones are skipped, and the file may begin with a byte order mark. Raises `UserError` where no line
    can be answered.
    """
    content = read_bytes(path, missing="--prompts names a file of questions").removeprefix(b"\xef\xbb\xbf")
    lines = [
        _read_line(line, f"{path}, line {number}", number, path.parent, default_image)
        for number, line in enumerate(content.split(b"\n"), start=1)
        if line.strip()
    ]
    if not lines:
        raise UserError(f"{path} has no questions; a line is {EXAMPLE}")
    if all(isinstance(line, BadLine) for line in lines):
        more = f", and {len(lines) - 1} more lines cannot be answered either" if len(lines) > 1 else ""
        raise UserError(lines[0].error + more)
    return lines


def _read_line(line: bytes, where: str, number: int, folder: Path, default_image: Path | None) -> PromptLine | BadLine:
    try:
        value = parse_json(line.decode("utf-8"), where, remedy=f"a line is {EXAMPLE}")
    except UnicodeDecodeError:
        return BadLine(number, f"{where} is not UTF-8 text")
    except UserError as error:
        return BadLine(number, str(error))
    problem = _problem(value, default_image)
    if problem is not None:
        return BadLine(number, f"{where} {problem}")
    image, name = value.get("image"), value.get("id")
    return PromptLine(
        number=number,
        id=None if name is None else str(name),
        image=default_image if image is None else folder / image,
        prompt=value["prompt"].strip(),
    )


def _problem(value: Any, default_image: Path | None) -> str | None:
    """What is wrong with a line's value."""
    if not isinstance(value, Mapping):
        return f"is not an object like {EXAMPLE}"
    unknown = sorted(set(value) - {"prompt", "image", "id"})
    if unknown:
        return f"has {shown(unknown[0])}, which is not one of prompt, image, id"
    prompt, image, name = value.get("prompt"), value.get("image"), value.get("id")
    if not _is_text(prompt) or not prompt.strip():
        return 'needs "prompt", a text that is not empty'
    if image is not None and (not _is_text(image) or not image or "\0" in image):
        return 'needs as "image" the path of an image'
    if image is None and default_image is None:
        return 'has no "image"; give it one, or all lines one by --image'
    if isinstance(name, bool) or not (isinstance(name, int | None) or _is_text(name)):
        return 'needs as "id" a text or a number'
    return None


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written: JSON may have halves of characters."""
    try:
        return isinstance(value, str) and bool(value.encode("utf-8") or True)
    except UnicodeEncodeError:
        return False
