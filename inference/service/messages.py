"""What the service is sent and what it answers, as pydantic models: OpenAPI, checks and JSON follow from them."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Json, WithJsonSchema

from dataloaders.sample import Turn
from groundscore.exchange.regions import outlines
from groundscore.scoring.masks import encode_mask
from inference.limits import Limits
from inference.reply import Reply, mask_png
from model.systems.base import LAYER_RULES

Form = Literal["rle", "png", "polygons"]
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


def _decoded(value: object) -> object:
    """The bytes of a text in base64, which a data URL may hold; anything else as it is."""
    if not isinstance(value, str):
        return value
    start = _DATA_URL.match(value[:100])
    try:
        return base64.b64decode(value[start.end() if start else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None


def _switch(value: object) -> object:
    """The value of a switch in a form."""
    if value not in (False, "true", "false"):
        raise ValueError("should be true or false")
    return value == "true"


def _writable(text: str) -> str:
    """Refuses halves of characters, which JSON may have and no file."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("not text: it has halves of characters") from None
    return text


def _said(text: str) -> str:
    text = _writable(text).strip()
    if not text:
        raise ValueError("empty")
    return text


PROMPT = Field(min_length=1, max_length=Limits.prompt, pattern=r"\S", examples=["Where is the red clock?"])
Prompt = Annotated[str, PROMPT, AfterValidator(_said)]
Layer = Literal[LAYER_RULES] | Annotated[int, Field(ge=0, le=1000)]
_LAYER = "The hidden state that prompts the masks: a rule or an index; without it the model's own."
_STREAM = "Answer with server-sent events: the text as it is written, then the reply."
# The smallest PNG that is an image: 8 × 8 grey pixels.
EXAMPLE_IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- questions --------------------------------------------------------------------------------------------------------


class EarlierTurn(_Message):
    """A question about the same image that was answered before, and its answer, `[SEG]` and `[REJ]` included."""

    prompt: Prompt
    answer: Annotated[str, Field(min_length=1, max_length=4 * Limits.prompt, pattern=r"\S"), AfterValidator(_said)]

    @property
    def turn(self) -> Turn:
        """As the model takes it."""
        return Turn(self.prompt, self.answer)


class Question(_Message):
    """A question about an image, in JSON."""

    model_config = ConfigDict(strict=True)

    image: Annotated[
        bytes,
        BeforeValidator(_decoded),
        Field(min_length=1),
        WithJsonSchema({"type": "string", "contentEncoding": "base64", "minLength": 1, "examples": [EXAMPLE_IMAGE]}),
    ] = Field(description="The file of the image (JPEG, PNG, WebP, …) in base64; a data URL is read, too.")
    prompt: Prompt = Field(description="The question or instruction.")
    turns: list[EarlierTurn] = Field(
        [], max_length=Limits.turns, description="Earlier turns about this image, the oldest first."
    )
    layer: Layer | None = Field(None, description=_LAYER)
    formats: list[Form] = Field(["rle"], max_length=3, description="How masks are returned.")
    stream: bool = Field(False, description=_STREAM)


class FormQuestion(Question):
    """The same as multipart/form-data, the image being an uploaded file."""

    model_config = ConfigDict(strict=False)

    image: Annotated[bytes, Field(min_length=1), WithJsonSchema({"type": "string", "format": "binary"})] = Field(
        description="The file of the image."
    )
    layer: Layer = Field(None, description=_LAYER)  # a form has no null
    stream: Annotated[bool, BeforeValidator(_switch)] = Field(False, description=_STREAM)
    turns: Json[Annotated[list[EarlierTurn], Field(max_length=Limits.turns)]] = Field(
        [], description="Earlier turns, as the JSON of the other form."
    )


# --- answers ----------------------------------------------------------------------------------------------------------


class RunLengths(_Message):
    """A mask as COCO's compressed run-length encoding."""

    size: tuple[int, int] = Field(description="Height and width.")
    counts: str


class Polygon(_Message):
    """A connected part of a mask in corners of pixels (x, y); holes are cut out of it. Filled by the even-odd rule, all
    parts are the mask, pixel for pixel."""

    outer: list[tuple[int, int]]
    holes: list[list[tuple[int, int]]]


class Target(_Message):
    """One `[SEG]` of an answer: its mask in the formats that were asked for."""

    pixels: int = Field(description="Pixels of the mask; 0 where nothing was found.")
    score: float = Field(description="How sure the mask decoder is, from 0 to 1.")
    layer: int = Field(description="The hidden state that prompted the mask.")
    rle: RunLengths | None = None
    png: str | None = Field(
        None, description="An 8-bit PNG (0 or 255) in base64.", json_schema_extra={"contentEncoding": "base64"}
    )
    polygons: list[Polygon] | None = None


class Answer(_Message):
    """The answer to a question."""

    answer: str = Field(description="The text, with [SEG] once per target and [REJ] for what is not there.")
    complete: bool = Field(description="False where the answer reached the maximum length.")
    remark: str | None = Field(None, description="What was not found, in a sentence.")
    size: tuple[int, int] = Field(description="Height and width of the image, upright, and of every mask.")
    targets: list[Target] = Field(description="One for each [SEG], in order.")
    tokens: int
    seconds: float = Field(description="The answer's share of the model's time.")


class TextPiece(_Message):
    """The next piece of an answer; the data of the event `text`."""

    text: str


class Problem(_Message):
    """Why there is no answer; the data of the event `problem`, too."""

    problem: str = Field(description="A word for programs, such as too_busy.")
    message: str = Field(description="A sentence for people.")


class Health(_Message):
    """Whether questions are answered."""

    status: Literal["ready", "loading", "failed"]
    stage: str = Field(description="What loading the model is doing.")
    waiting: int = Field(description="Questions that wait.")


class Model(_Message):
    """The model and the limits of the service."""

    name: str
    system: str = Field(description="UGround, LISA, READ, PixelLM, GSVA or SESAME.")
    layers: int = Field(description="Hidden states; a layer is an index below this.")
    layer: int | str = Field(description="The layer rule of questions that name none.")
    max_new_tokens: int
    max_upload_mb: int
    max_pixels: int
    max_prompt: int
    max_turns: int
    max_waiting: int
    timeout: int = Field(description="Seconds.")


def answer_of(reply: Reply, formats: Sequence[Form], size: tuple[int, int]) -> Answer:
    """Returns what is sent of a reply about an image of this size (height, width)."""
    return Answer(
        answer=reply.text,
        complete=reply.complete,
        remark=reply.remark,
        size=size,
        targets=[
            Target(
                pixels=int(mask.sum()),
                score=score,
                layer=layer,
                rle=RunLengths(**encode_mask(mask)) if "rle" in formats else None,
                png=base64.b64encode(mask_png(mask)).decode() if "png" in formats else None,
                polygons=[
                    Polygon(outer=part.outer.tolist(), holes=[hole.tolist() for hole in part.holes])
                    for part in outlines(mask)
                ]
                if "polygons" in formats
                else None,
            )
            for mask, score, layer in zip(reply.masks, reply.scores, reply.layers, strict=True)
        ],
        tokens=reply.tokens,
        seconds=round(reply.seconds, 3),
    )
