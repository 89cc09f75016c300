"""One question about one image, answered in text and masks: what every front end talks to.

    session = ChatSession(model, processor)
    reply = session.ask(image, history, "Where is the kite?", on_text=print)
    history.append(reply.turn)

A session keeps nothing between calls; the history belongs to the caller, so that one session serves many visitors.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoints.processing import GroundingProcessor
from dataloaders.batching.batch import Batch
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError
from groundscore.targets import TARGET
from inference.reply import MAP_SIDE, LayerChoice, Reply
from model.generation import mask_scores
from model.grounding import GroundingModel
from model.outputs import Answer
from model.settings import LONGEST_ANSWER
from utils.free_memory import is_out_of_memory, release_memory

logger = logging.getLogger(__name__)

NO_MEMORY = (
    "out of memory: a smaller image or a shorter answer (--max_new_tokens) needs less, and so does --precision bf16"
)
# A multi-token target of which the model wrote a part only.
_BROKEN_TARGET = re.compile(r"\s*\[(?:SEG|REJ)\d+\]")
# What may still change when more tokens arrive: bytes of a character, the first tokens of a multi-token target.
_UNFINISHED = re.compile(r"(?:\s*\[(?:SEG|REJ)\d+\])*\s*\ufffd*$")


class ChatSession:
    """Asks a model, which is in evaluation mode.

    too_long: what a user of this front end can do when the conversation is longer than the model reads.
    """

    def __init__(
        self,
        model: GroundingModel,
        processor: GroundingProcessor,
        *,
        layer: LayerChoice = None,
        max_new_tokens: int = LONGEST_ANSWER,
        too_long: str = "Ask more briefly",
    ):
        self.model, self.processor = model, processor
        self.layer, self.max_new_tokens = layer, max_new_tokens
        longest = model.config.context_length
        self._collate = Collator(processor, max_length=longest, check_masks=False, too_long=too_long)

    def ask(
        self,
        image: np.ndarray,
        history: Sequence[Turn],
        prompt: str,
        *,
        on_text: Callable[[str], None] | None = None,
        layer: LayerChoice = None,
    ) -> Reply:
        """Answers `prompt` about `image` (uint8 RGB [H, W, 3]) after the turns of `history`.

        `on_text` is called with each new piece of the answer; an exception from it ends the answer and reaches the
        caller. `layer` overrides the session's. A turn of the history that got no answer is left out.
        """
        start = time.perf_counter()
        stream = TextStream(self.processor.decode)

        def on_token(row: int, token_id: int) -> None:
            piece = stream.push(token_id)
            if piece and on_text:
                on_text(piece)

        turns = [turn for turn in history if turn.answer]
        (answer,) = self._generate(image, [[*turns, Turn(prompt, None)]], layer, on_token)
        reply = self._reply(prompt, answer, time.perf_counter() - start)
        if on_text and reply.text.startswith(stream.sent) and reply.text != stream.sent:
            on_text(reply.text[len(stream.sent) :])
        return reply

    def ask_each(self, image: np.ndarray, prompts: Sequence[str]) -> list[Reply]:
        """Answers prompts about one image at once, each as a conversation of its own; the image is read once.

        Where memory does not suffice, half of them are answered at a time. The seconds of a reply are its share.
        """
        start = time.perf_counter()
        try:
            answers = self._generate(image, [[Turn(prompt, None)] for prompt in prompts])
        except Exception as error:
            if len(prompts) == 1 or not is_out_of_memory(error):
                raise
            answers = None
        if answers is None:  # the failed attempt is over, so that its memory can be used
            release_memory(self.model.device)
            middle = len(prompts) // 2
            logger.warning("out of memory with %d prompts at a time; continuing with half as many", len(prompts))
            return self.ask_each(image, prompts[:middle]) + self.ask_each(image, prompts[middle:])
        seconds = (time.perf_counter() - start) / len(prompts)
        return [self._reply(prompt, answer, seconds) for prompt, answer in zip(prompts, answers, strict=True)]

    def _generate(
        self,
        image: np.ndarray,
        conversations: Sequence[Sequence[Turn]],
        layer: LayerChoice = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Answer]:
        if not all(turns[-1].question.strip() for turns in conversations):
            raise UserError("the prompt is empty")
        try:
            return self.model.generate(
                self.batch(image, conversations).to(self.model.device),
                max_new_tokens=self.max_new_tokens,
                layer=self.layer if layer is None else layer,
                on_token=on_token,
            )
        except Exception as error:
            if len(conversations) > 1 or not is_out_of_memory(error):
                raise
        release_memory(self.model.device)
        raise UserError(NO_MEMORY)

    def _reply(self, prompt: str, answer: Answer, seconds: float) -> Reply:
        maps = answer.similarity_maps
        return Reply(
            prompt=prompt,
            text=_BROKEN_TARGET.sub("", self.processor.decode(answer.token_ids)).strip(),
            masks=(answer.mask_logits > 0).cpu().numpy(),
            scores=[float(score) for score in answer.mask_scores],
            layers=[int(layer) for layer in answer.layers],
            maps=None if maps is None else _shrunk(maps),
            tokens=len(answer.token_ids),
            complete=len(answer.token_ids) < self.max_new_tokens,
            seconds=seconds,
            objects=None if answer.object_scores is None else [score > 0 for score in answer.object_scores],
        )

    def segment_again(self, image: np.ndarray, history: Sequence[Turn], reply: Reply, layer: LayerChoice) -> Reply:
        """Returns `reply` with the masks of another layer, from one reading of its text instead of generating it again.

        image and history as they were when `reply` was given; layer: None for the session's.
        """
        layer = self.layer if layer is None else layer
        start = time.perf_counter()
        answered = [*(turn for turn in history if turn.answer), reply.turn]
        found = self.model.segment(self.batch(image, [answered]).to(self.model.device), layer=layer)[0]
        first = len(found.mask_logits) - len(reply.masks)  # the targets of earlier answers come before
        logits, maps, objects = found.mask_logits[first:], found.similarity_maps, found.object_scores
        return replace(
            reply,
            masks=(logits > 0).cpu().numpy(),
            scores=mask_scores(logits).tolist(),
            layers=found.layers[first:],
            maps=None if maps is None else _shrunk(maps[first:]),
            seconds=time.perf_counter() - start,
            objects=None if objects is None else (objects[first:] > 0).tolist(),
        )

    def batch(self, image: np.ndarray, conversations: Sequence[Sequence[Turn]]) -> Batch:
        """Conversations about one image, whose last answers are given or to be written, as the model reads them."""
        answers = [turn.answer for turns in conversations for turn in turns if turn.answer]
        targets = sum(len(TARGET.findall(answer)) for answer in answers)
        unknown = np.zeros((targets, *image.shape[:2]), np.uint8)
        conversations = [tuple(turns) for turns in conversations]
        sample = Sample(Path("the image"), image, conversations, unknown, None, family="chat", dataset="chat")
        return self._collate([sample])


def _shrunk(maps: Tensor) -> np.ndarray:
    """Maps [n, H, W] as float32, at most `MAP_SIDE` high and wide."""
    height, width = maps.shape[1:]
    scale = min(1.0, MAP_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = [F.interpolate(each[None, None].float(), size, mode="area")[0] for each in maps]
    return torch.cat(small).cpu().numpy() if small else np.zeros((0, *size), np.float32)


class TextStream:
    """Turns tokens into text as they arrive, never cutting a character or a target in two.

    A token alone has no text (a character may take several, spaces depend on the neighbours), so the whole answer is
    decoded each time and only what is certain is handed out: no character whose bytes are incomplete, no target some
    of whose tokens are missing, and no space before it is known what follows.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._token_ids: list[int] = []
        self.sent = ""

    def push(self, token_id: int) -> str:
        """Returns the text that this token makes certain, often empty or one word."""
        self._token_ids.append(int(token_id))
        text = _UNFINISHED.sub("", self._decode(self._token_ids)).strip()
        if not text.startswith(self.sent):
            return ""
        piece, self.sent = text[len(self.sent) :], text
        return piece
