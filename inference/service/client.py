"""A client of the service for Python programs; needs neither torch nor a model.

client = GroundingClient("http://127.0.0.1:7860", key=os.environ.get("UGROUND_API_KEY"))
answer = client.ground("photo.jpg", "Where is the red clock?")
answer.text, answer.masks, answer.scores
client.ground("photo.jpg", "And the blue one?", turns=[answer.turn])
"""

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from groundscore.errors import UserError
from groundscore.rle import decode
from groundscore.scoring.masks import to_rle

_BUSY = (429, 503)


@dataclass(frozen=True)
class ClientAnswer:
    """An answer: its text, with `[SEG]` once per target; the masks bool [n, H, W], scores [n] and layers [n] of those;
    complete: whether it was not cut off; turn: for the `turns` of the next question."""

    text: str
    masks: np.ndarray
    scores: list[float]
    layers: list[int]
    complete: bool
    remark: str | None
    turn: dict[str, str]


class GroundingClient:
    """Asks the service at an address such as http://127.0.0.1:7860. key: one of its keys, where it has any.

    timeout: seconds without a word from the service. attempts: how often a question is asked while it is busy.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 180, attempts: int = 5):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url.rstrip("/") + "/v1/", headers=headers, timeout=timeout)
        self._attempts = attempts

    def ready(self) -> bool:
        """Whether questions are answered."""
        return self._http.get("health").status_code == 200

    def model(self) -> dict[str, Any]:
        """The model and the limits of the service."""
        return json.loads(self._send("GET", "model"))

    def ground(
        self,
        image: str | Path | bytes,
        prompt: str,
        *,
        turns: Sequence[dict[str, str]] = (),
        layer: int | str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> ClientAnswer:
        """Answers `prompt` about an image, a file or its content, after earlier turns.

        `on_text` is called with the pieces of the answer as they come. Raises `UserError` where there is no answer.
        """
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        question = {
            "image": base64.b64encode(content).decode(),
            "prompt": prompt,
            "turns": list(turns),
            "layer": layer,
            "stream": on_text is not None,
        }
        answer = json.loads(self._send("POST", "ground", question, on_text))
        size, targets = tuple(answer["size"]), answer["targets"]
        masks = [decode(to_rle(target["rle"], size, "the service's answer")).astype(bool) for target in targets]
        return ClientAnswer(
            text=answer["answer"],
            masks=np.stack(masks) if masks else np.zeros((0, *size), bool),
            scores=[target["score"] for target in targets],
            layers=[target["layer"] for target in targets],
            complete=answer["complete"],
            remark=answer.get("remark"),
            turn={"prompt": prompt, "answer": answer["answer"]},
        )

    def _send(
        self, method: str, path: str, body: dict | None = None, on_text: Callable[[str], None] | None = None
    ) -> str:
        """The JSON of a response, asked for again while the service is busy."""
        for attempt in range(self._attempts):
            try:
                with self._http.stream(method, path, json=body) as response:
                    if response.status_code == 200 and on_text is not None:
                        return _listen(response.iter_lines(), on_text)
                    text = response.read().decode()
            except httpx.HTTPError as error:
                raise UserError(f"{self._http.base_url}: {error or type(error).__name__}") from error
            if response.status_code == 200:
                return text
            again = response.headers.get("Retry-After")
            if response.status_code not in _BUSY or again is None or attempt == self._attempts - 1:
                raise UserError(f"{self._http.base_url}: {response.status_code}, {_message(text)}")
            time.sleep(float(again))
        raise AssertionError


def _listen(lines: Iterator[str], on_text: Callable[[str], None]) -> str:
    """The last event's data; the others are pieces of text."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data" and name == "text":
            on_text(json.loads(value)["text"])
        elif field == "data" and name == "answer":
            return value
        elif field == "data":
            raise UserError(f"the service stopped: {_message(value)}")
    raise UserError("the service closed the connection before the answer was complete")


def _message(text: str) -> str:
    """What a `Problem` says; of another server's error its beginning."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
