"""A service for tests: real HTTP on a free port, a real but tiny model whose words are given."""

import io
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

import app
from inference.limits import Limits
from inference.reply import Reply
from inference.service.serving import ServiceServer
from inference.session import ChatSession
from tests.tiny import tiny_model, write_answer

ANSWER = "Sure, the ball is [SEG] and the house is [SEG]."
KEY = "a-key-for-the-tests-only"


class GivenWords(ChatSession):
    """Answers every question in the same words; `gate` holds the model before it answers, `calls` tells how many
    questions each call of the model had."""

    def __init__(self, answer: str = ANSWER, system: str = "UGround", **options):
        model, processor = tiny_model(system)
        write_answer(model, processor.tokenizer.encode(answer, bos=False))
        super().__init__(model, processor, **{"max_new_tokens": 200} | options)
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[int] = []

    def ask_all(self, questions: Sequence, **options) -> list[Reply]:
        self.calls.append(len(questions))
        self.gate.wait(30)
        return super().ask_all(questions, **options)

    def _generate(self, *arguments):
        self.model.lm_head.step = 0
        return super()._generate(*arguments)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def running(session: ChatSession, limits: Limits | None = None, *flags: str) -> Iterator[ServiceServer]:
    """A service with this session, its model loaded."""
    parsed = app.build_parser().parse(["--version", "tiny/model", "--api", "--port", str(free_port()), *flags])
    server = ServiceServer(parsed, limits or Limits(), lambda tell: session)
    server.start()
    try:
        server.model.wait(30)
        yield server
    finally:
        server.close()


def photo(seed: int = 0, size: tuple[int, int] = (30, 44), form: str = "PNG") -> bytes:
    """The file of an image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def ask(url: str, prompt: str = "Where is the ball?", image: bytes | None = None, **fields) -> httpx.Response:
    """A question as a form. client: for many of them, since each client reads certificates."""
    client = fields.pop("client", httpx)
    files = {"image": ("photo.png", photo() if image is None else image)}
    headers = fields.pop("headers", None)
    return client.post(f"{url}/v1/ground", data={"prompt": prompt, **fields}, files=files, headers=headers, timeout=60)
