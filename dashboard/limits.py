"""How much one visitor may ask for, and reading what they send: every refusal is a sentence."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from groundscore.annotations.images import read_image
from groundscore.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What the dashboard accepts.

    upload_mb: megabytes of a picture's file; pixels: of a picture, before it is decoded.
    work_pixels: a larger picture is scaled down to this before the model sees it (masks have its size).
    prompt: characters; answer: tokens; targets: masks of one answer.
    waiting: questions in the queue; history: answers that a visitor can go back to.
    """

    upload_mb: int = 20
    pixels: int = 50_000_000
    work_pixels: int = 4_000_000
    prompt: int = 2000
    answer: int = 256
    targets: int = 32
    waiting: int = 32
    history: int = 12


def check_prompt(text: str | None, limits: Limits) -> str:
    """The question without space around it; `UserError` where there is none, or too much."""
    text = (text or "").strip()
    if not text:
        raise UserError("Please type what you are looking for.")
    if len(text) > limits.prompt:
        raise UserError(f"The instruction has {len(text)} characters; at most {limits.prompt} are read.")
    return text


def read_picture(path: str | None, limits: Limits) -> np.ndarray:
    """A visitor's picture as uint8 RGB [H, W, 3], at most `limits.work_pixels` large.

    Errors never name the file's place on the server.
    """
    if not path:
        raise UserError("Please choose a picture first.")
    try:
        if Path(path).stat().st_size > limits.upload_mb * 2**20:
            raise UserError(f"The picture's file is larger than {limits.upload_mb} MB.")
        image = read_image(path, pixels=limits.pixels, missing="choose another one")
    except OSError:
        raise UserError("The picture could not be read. Please upload it again.") from None
    except UserError as error:
        raise UserError(str(error).replace(f"image {path}", "The picture").replace(path, "The picture")) from None
    return shrink(image, limits.work_pixels)


def shrink(image: np.ndarray, pixels: int) -> np.ndarray:
    """The image with at most so many pixels, in its own proportions."""
    height, width = image.shape[:2]
    if height * width <= pixels:
        return image
    scale = (pixels / (height * width)) ** 0.5
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
