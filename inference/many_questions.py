"""Many questions in one go: a JSONL file with an image and a question per line, and a line of JSON per answer."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from groundscore.annotations.images import read_image
from groundscore.errors import UserError, shown
from groundscore.reading import parse_json, read_bytes
from inference.reply import reply_record, save_reply

if TYPE_CHECKING:
    from inference.session import ChatSession

AT_A_TIME = 32  # most questions about an image
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


# --- answering --------------------------------------------------------------------------------------------------------


def answer_all(
    session: "ChatSession",
    lines: Sequence[PromptLine | BadLine],
    save_to: Path,
    out: TextIO,
    log: TextIO,
    export: Sequence[str] = (),
) -> int:
    """Answers `lines`, each as a new conversation; returns how many failed.

    Questions about the same image that follow one another are answered together. Every line of `out` has the number and
    `id` of its question and what the saved record holds, or "error". What is wrong with a line or its image costs that
    line only. Progress goes to `log`. export: see `save_reply`.
    """
    began, done, failed = time.monotonic(), 0, 0
    for same in _about_one_image(lines):
        for row in _answer_together(session, same, save_to, export):
            done, failed = done + 1, failed + ("error" in row)
            print(json.dumps(row, ensure_ascii=False), file=out, flush=True)
        left = (time.monotonic() - began) / done * (len(lines) - done)
        print(f"{done}/{len(lines)} questions, {left:.0f} s left", file=log, flush=True)
    return failed


def _about_one_image(lines: Sequence[PromptLine | BadLine]) -> Iterator[list[PromptLine | BadLine]]:
    """Runs of lines about one image, `AT_A_TIME` at most."""
    for _, same in groupby(lines, key=lambda line: getattr(line, "image", line.number)):
        together = list(same)
        yield from (together[start : start + AT_A_TIME] for start in range(0, len(together), AT_A_TIME))


def _answer_together(
    session: "ChatSession", lines: Sequence[PromptLine | BadLine], save_to: Path, export: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of lines about one image, or of one bad line."""
    if isinstance(lines[0], BadLine):
        yield {"line": lines[0].number, "id": None, "error": lines[0].error}
        return
    try:
        image = read_image(lines[0].image, missing="'image' is a path from the folder of the questions on")
        replies = session.ask_each(image, [line.prompt for line in lines])
    except UserError as error:
        if len(lines) == 1:
            yield _failed(lines[0], error)
        else:  # each by itself, so that only the line that is wrong fails
            for line in lines:
                yield from _answer_together(session, [line], save_to, export)
        return
    for line, reply in zip(lines, replies, strict=True):
        try:
            saved = save_reply(reply, image, save_to, line.image, export)
        except UserError as error:
            yield _failed(line, error)
        else:
            record = reply_record(reply, line.image, saved)
            yield {"line": line.number, "id": line.id, **record, "record": str(saved.record), "remark": reply.remark}


def _failed(line: PromptLine, error: UserError) -> dict[str, Any]:
    return {
        "line": line.number,
        "id": line.id,
        "image": str(line.image),
        "prompt": line.prompt,
        "error": str(error),
    }
