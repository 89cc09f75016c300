"""A request's body to a question and its image, within the limits; whatever is wrong is a `Refused`."""

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from groundscore.annotations.images import read_image
from groundscore.errors import UserError
from groundscore.targets import TARGET
from inference.limits import Limits
from inference.service.messages import FormQuestion, Problem, Question

_TEXT_BYTES = 1 << 20  # of everything but the image
_BODY_SECONDS = 60
_FIELDS = 64  # of a form


class Refused(Exception):
    """A request that gets no answer. status: of HTTP; word, message: of `Problem`; headers: of the response."""

    def __init__(self, status: int, word: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers
        self.problem = Problem(problem=word, message=message)


async def read_question(request: Request, limits: Limits) -> Question:
    """The question of a request in either form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            if kind == "application/json":
                return await _of_json(request, limits)
            if kind == "multipart/form-data":
                return await _of_form(request, limits)
    except TimeoutError:
        raise Refused(408, "too_slow", f"the request did not arrive within {_BODY_SECONDS} s") from None
    except ClientDisconnect:
        raise Refused(400, "cut_off", "the request was cut off") from None
    except ValidationError as error:
        raise Refused(422, "bad_field", _in_words(error)) from None
    raise Refused(415, "bad_type", "send application/json or multipart/form-data")


async def _of_json(request: Request, limits: Limits) -> Question:
    body = b"".join([chunk async for chunk in _limited(request, limits, 4 / 3)])
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "bad_json", "the body is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise Refused(422, "bad_field", 'the body should be an object: {"image": BASE64, "prompt": TEXT}')
    return Question.model_validate(value)


async def _of_form(request: Request, limits: Limits) -> Question:
    parser = MultiPartParser(
        request.headers, _limited(request, limits, 1), max_files=1, max_fields=_FIELDS, max_part_size=_TEXT_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, AssertionError) as error:  # a form without a boundary
        text = getattr(error, "message", "") or "it is not well formed"
        raise Refused(400, "bad_form", f"the form cannot be read: {text}") from None
    values: dict[str, Any] = {}
    try:
        for name in form:
            several = form.getlist(name)
            if name == "formats":
                values[name] = [word.strip() for each in several if isinstance(each, str) for word in each.split(",")]
            elif len(several) > 1:
                raise Refused(422, "bad_field", f"{name[:40]}: given {len(several)} times")
            elif several[0] != "":  # a field of a web form that was left empty
                values[name] = await several[0].read() if isinstance(several[0], UploadFile) else several[0]
    finally:
        await form.close()
    if isinstance(values.get("image"), str):
        raise Refused(422, "bad_field", "image: not a file; in curl it is -F image=@photo.jpg")
    return FormQuestion.model_validate(values)


async def _limited(request: Request, limits: Limits, growth: float) -> AsyncIterator[bytes]:
    """The body in chunks. growth: of an image's file when it is sent."""
    most = int(limits.upload_mb * 2**20 * growth) + _TEXT_BYTES
    refusal = Refused(413, "too_large", f"the request is too large: an image may have {limits.upload_mb} MB")
    if int(request.headers.get("content-length") or 0) > most:
        raise refusal
    async for chunk in request.stream():
        most -= len(chunk)
        if most < 0:
            raise refusal
        yield chunk


def _in_words(error: ValidationError) -> str:
    """What is wrong with the first fields, each named, without what was sent."""
    parts = []
    for each in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        name = ".".join(map(str, each["loc"]))
        parts.append(f"{name}: {each['msg'].removeprefix('Value error, ')}" if name else each["msg"])
    return "; ".join(parts)


class Images:
    """Decodes images; the latest stay, so that questions about the same file share an array."""

    def __init__(self, limits: Limits):
        self._limits, self._lock = limits, threading.Lock()
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def read(self, question: Question) -> np.ndarray:
        """The image of a question as uint8 RGB [H, W, 3]."""
        if len(question.image) > self._limits.upload_mb * 2**20:
            raise Refused(413, "too_large", f"the image's file is larger than {self._limits.upload_mb} MB")
        key = hashlib.sha256(question.image).digest()
        with self._lock:
            image = self._kept.get(key)
            if image is None:
                try:
                    image = read_image(Path("the image"), pixels=self._limits.pixels, content=question.image)
                except UserError as error:
                    raise Refused(422, "bad_image", str(error).replace("image the image", "the image")) from None
                self._kept[key] = image
            self._kept.move_to_end(key)
            while len(self._kept) > self._limits.together or (
                len(self._kept) > 1 and sum(map(_pixels, self._kept.values())) > self._limits.batch_pixels
            ):
                self._kept.popitem(last=False)
        earlier = sum(len(TARGET.findall(turn.answer)) for turn in question.turns)
        if earlier > self._limits.targets * self._limits.turns or earlier * _pixels(image) > self._limits.mask_pixels:
            raise Refused(422, "too_many_targets", "turns: the earlier answers have too many targets")
        return image


def _pixels(image: np.ndarray) -> int:
    return image.shape[0] * image.shape[1]
