"""Many questions in one go: a line of JSON per answer, and pictures as in the chat."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from dataloaders.images import read_image
from utils.errors import UserError
from utils.prompt_files import PromptLine
from utils.saving import reply_record, save_reply


def answer_all(session, lines: Sequence[PromptLine], save_to: Path, out: TextIO, log: TextIO) -> int:
    """Answer `lines` with a `ChatSession`, one after the other, each as a new conversation; how many failed.

    Every line of `out` has the number and `id` of its question and what the saved record holds, or "error". A bad
    picture costs its own line only. Progress goes to `log`.
    """
    began, failed = time.monotonic(), 0
    picture, image = None, None
    for done, line in enumerate(lines, start=1):
        row = {"line": line.number, "id": line.id}
        try:
            if line.image != picture:
                picture, image = None, read_image(line.image)
                picture = line.image
            reply = session.ask(image, (), line.prompt)
            saved = save_reply(reply, image, save_to, line.image)
            row |= reply_record(reply, line.image, saved) | {"record": str(saved.record), "remark": reply.remark}
        except UserError as error:
            failed += 1
            row |= {"image": str(line.image), "prompt": line.prompt, "error": str(error)}
        print(json.dumps(row, ensure_ascii=False), file=out, flush=True)
        left = (time.monotonic() - began) / done * (len(lines) - done)
        print(f"{done}/{len(lines)} questions, {left:.0f} s left", file=log, flush=True)
    return failed
