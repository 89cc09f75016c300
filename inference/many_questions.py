"""Many questions in one go: a line of JSON per answer, and images as in the chat."""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from groundscore.annotations.images import read_image
from groundscore.errors import UserError
from inference.prompt_files import BadLine, PromptLine
from inference.saving import reply_record, save_reply

AT_A_TIME = 32  # most questions about an image


def answer_all(session, lines: Sequence[PromptLine | BadLine], save_to: Path, out: TextIO, log: TextIO) -> int:
    """Answer `lines` with a `ChatSession`, each as a new conversation; how many failed.

    Questions about the same image that follow one another are answered together. Every line of `out` has the number and
    `id` of its question and what the saved record holds, or "error". What is wrong with a line or its image costs that
    line only. Progress goes to `log`.
    """
    began, done, failed = time.monotonic(), 0, 0
    for same in _about_one_image(lines):
        for row in _answer_together(session, same, save_to):
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


def _answer_together(session, lines: Sequence[PromptLine | BadLine], save_to: Path) -> Iterator[dict[str, Any]]:
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
                yield from _answer_together(session, [line], save_to)
        return
    for line, reply in zip(lines, replies, strict=True):
        try:
            saved = save_reply(reply, image, save_to, line.image)
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
