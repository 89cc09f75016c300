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
from inference.reply import MAP_SIDE, LayerChoice, Question, Reply
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
        tell = on_text and (lambda _, piece: on_text(piece))
        return self.ask_all([Question(image, prompt, tuple(history))], on_text=tell, layer=layer)[0]

    def ask_each(self, image: np.ndarray, prompts: Sequence[str]) -> list[Reply]:
        """Answers prompts about one image at once, each as a conversation of its own; see `ask_all`."""
        return self.ask_all([Question(image, prompt) for prompt in prompts])

    def ask_all(
        self,
        questions: Sequence[Question],
        *,
        on_text: Callable[[int, str], None] | None = None,
        layer: LayerChoice = None,
    ) -> list[Reply]:
        """Answers questions at once, each as a conversation of its own; an image is read once for all that have it.

        `on_text(index of the question, piece)` is as in `ask`. Where memory does not suffice, half of the questions are
        answered at a time. The seconds of a reply are its share. Raises `UserError` where a question cannot be asked.
        """
        if not all(question.prompt.strip() for question in questions):
            raise UserError("the prompt is empty")
        streams = [TextStream(self.processor.decode) for _ in questions]

        def tell(index: int, piece: str) -> None:
            if piece and on_text:
                on_text(index, piece)

        return self._answer(questions, range(len(questions)), layer, streams, tell)

    def _answer(
        self,
        questions: Sequence[Question],
        chosen: Sequence[int],
        layer: LayerChoice,
        streams: Sequence["TextStream"],
        tell: Callable[[int, str], None],
    ) -> list[Reply]:
        """The replies to the chosen questions, indices that ascend."""
        start = time.perf_counter()
        for index in chosen:
            streams[index].begin_again()
        try:
            answers = self._generate(
                questions, chosen, layer, lambda index, token: tell(index, streams[index].push(token))
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            answers = None
        if answers is None:  # the failed attempt is over, so that its memory can be used
            release_memory(self.model.device)
            if len(chosen) == 1:
                raise UserError(NO_MEMORY)
            logger.warning("out of memory with %d prompts at a time; continuing with half as many", len(chosen))
            middle = len(chosen) // 2
            halves = (chosen[:middle], chosen[middle:])
            return [reply for half in halves for reply in self._answer(questions, half, layer, streams, tell)]
        seconds = (time.perf_counter() - start) / len(chosen)
        replies = [self._reply(questions[index].prompt, answers[index], seconds) for index in chosen]
        for index, reply in zip(chosen, replies, strict=True):
            tell(index, streams[index].rest(reply.text))
        return replies

    def _generate(
        self,
        questions: Sequence[Question],
        chosen: Sequence[int],
        layer: LayerChoice,
        on_token: Callable[[int, int], None],
    ) -> dict[int, Answer]:
        """The answers to the chosen questions by index, which `on_token` is called with, too."""
        about: dict[int, list[int]] = {}  # an image, and the questions about it
        for index in chosen:
            about.setdefault(id(questions[index].image), []).append(index)
        order = [index for of_image in about.values() for index in of_image]
        batch = self._batch(
            [
                (questions[of_image[0]].image, [questions[index].turns for index in of_image])
                for of_image in about.values()
            ]
        )
        answers = self.model.generate(
            batch.to(self.model.device),
            max_new_tokens=self.max_new_tokens,
            layer=self.layer if layer is None else layer,
            on_token=lambda row, token: on_token(order[row], token),
        )
        if len(answers) != len(order):
            raise UserError(f"a question is longer than the model reads. {self._collate.too_long}.")
        return dict(zip(order, answers, strict=True))

    def _reply(self, prompt: str, answer: Answer, seconds: float) -> Reply:
        maps = answer.similarity_maps
        return Reply(
            prompt=prompt,
            text=_BROKEN_TARGET.sub("", self.processor.decode(answer.token_ids)).strip(),
            masks=(answer.mask_logits > 0).cpu().numpy(),
            scores=_rounded(answer.mask_scores),
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
            scores=_rounded(mask_scores(logits).tolist()),
            layers=found.layers[first:],
            maps=None if maps is None else _shrunk(maps[first:]),
            seconds=time.perf_counter() - start,
            objects=None if objects is None else (objects[first:] > 0).tolist(),
        )

    def batch(self, image: np.ndarray, conversations: Sequence[Sequence[Turn]]) -> Batch:
        """Conversations about one image, whose last answers are given or to be written, as the model reads them."""
        return self._batch([(image, conversations)])

    def _batch(self, images: Sequence[tuple[np.ndarray, Sequence[Sequence[Turn]]]]) -> Batch:
        """A batch of images, each with its conversations."""
        samples = []
        for image, conversations in images:
            answers = [turn.answer for turns in conversations for turn in turns if turn.answer]
            targets = sum(len(TARGET.findall(answer)) for answer in answers)
            unknown = np.zeros((targets, *image.shape[:2]), np.uint8)
            turns = [tuple(each) for each in conversations]
            samples.append(Sample(Path("the image"), image, turns, unknown, None, family="chat", dataset="chat"))
        return self._collate(samples)


def _rounded(scores: Sequence[float]) -> list[float]:
    """Scores to the digits that do not depend on which questions are answered together."""
    return [round(float(score), 4) for score in scores]


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
        return self.rest(_UNFINISHED.sub("", self._decode(self._token_ids)).strip())

    def rest(self, text: str) -> str:
        """Returns what has not been handed out of `text`, which is handed out with this; nothing of another text."""
        if not text.startswith(self.sent):
            return ""
        piece, self.sent = text[len(self.sent) :], text
        return piece

    def begin_again(self) -> None:
        """The answer is written once more; what was handed out is not handed out again."""
        self._token_ids = []
