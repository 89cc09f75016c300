"""Limits on what strangers send: to the dashboard and to the service."""

from dataclasses import dataclass

from groundscore.errors import UserError
from model.settings import LONGEST_ANSWER


@dataclass(frozen=True)
class Limits:
    """Limits on the input of visitors.

    upload_mb: megabytes of an image's file; pixels: of an image, before it is decoded.
    analysis_pixels: an image whose layers are all looked at is scaled down to this.
    prompt: characters; answer: tokens; targets: masks of one answer; mask_pixels: of all of them together.
    waiting: questions in the queue; history: answers that a visitor can go back to.
    Of the service: turns: earlier turns of a question; together: questions that are answered at once, their images
    having batch_pixels at most; waiting_pixels: of the images of all questions in the queue; timeout: seconds from a
    question to its answer.
    """

    upload_mb: int = 20
    pixels: int = 50_000_000
    analysis_pixels: int = 4_000_000
    prompt: int = 2000
    answer: int = LONGEST_ANSWER
    targets: int = 32
    mask_pixels: int = 400_000_000
    waiting: int = 32
    history: int = 12
    turns: int = 20
    together: int = 8
    batch_pixels: int = 16_000_000
    waiting_pixels: int = 200_000_000
    timeout: int = 120

    def targets_of(self, size: tuple[int, int]) -> int:
        """Returns how many masks an answer about an image of `size`, (H, W), may have."""
        return max(1, min(self.targets, self.mask_pixels // (size[0] * size[1])))


def check_prompt(text: str | None, limits: Limits) -> str:
    """The prompt without surrounding space. Raises `UserError` if it is empty or too long."""
    text = (text or "").strip()
    if not text:
        raise UserError("Please type what you are looking for.")
    if len(text) > limits.prompt:
        raise UserError(f"The instruction has {len(text)} characters; at most {limits.prompt} are read.")
    return text
