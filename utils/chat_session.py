"""One question about one image, answered in text and masks: what the terminal, and every other front end, talks to.

    session = ChatSession(model, processor)
    reply = session.ask(image, history, "Where is the kite?", on_text=print)
    history.append(reply.turn)

A session keeps nothing between calls; the history belongs to the caller, so that one session serves many visitors.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataloaders.batch import Batch
from dataloaders.collate import Collator
from dataloaders.sample import Sample, Turn
from model.generation import mask_scores
from utils.errors import UserError
from utils.reply import LayerChoice, Reply

_TARGET = re.compile(r"\[(?:SEG|REJ)\]")
# A multi-token target of which the model wrote a part only.
_BROKEN_TARGET = re.compile(r"\s*\[(?:SEG|REJ)\d+\]")
# What may still change when more tokens arrive: bytes of a character, the first tokens of a multi-token target.
_UNFINISHED = re.compile(r"(?:\s*\[(?:SEG|REJ)\d+\])*\s*\ufffd*$")


class ChatSession:
    """Asks a model; `model` is a `GroundingModel` in evaluation mode, `processor` its `GroundingProcessor`."""

    def __init__(self, model, processor, *, layer: LayerChoice = None, max_new_tokens: int = 128):
        self.model, self.processor = model, processor
        self.layer, self.max_new_tokens = layer, max_new_tokens
        longest = model.config.text_config.max_position_embeddings
        self._collate = Collator(processor, packed=False, padding_side="left", max_length=longest, check_masks=False)

    def ask(
        self,
        image: np.ndarray,
        history: Sequence[Turn],
        prompt: str,
        *,
        on_text: Callable[[str], None] | None = None,
        layer: LayerChoice = None,
    ) -> Reply:
        """Answer `prompt` about `image` (uint8 RGB [H, W, 3]) after the turns of `history`.

        `on_text` is called with each new piece of the answer; an exception from it ends the answer and reaches the
        caller. `layer` overrides the session's. A turn of the history that got no answer is left out.
        """
        start = time.perf_counter()
        if not prompt.strip():
            raise UserError("the prompt is empty")
        batch = self._batch(image, [*(turn for turn in history if turn.answer), Turn(prompt, None)])
        stream = TextStream(self.processor.decode)

        def on_token(row: int, token_id: int) -> None:
            piece = stream.push(token_id)
            if piece and on_text:
                on_text(piece)

        (answer,) = self.model.generate(
            batch.to(self.model.device),
            max_new_tokens=self.max_new_tokens,
            layer=self.layer if layer is None else layer,
            on_token=on_token,
        )
        text = _BROKEN_TARGET.sub("", self.processor.decode(answer.token_ids)).strip()
        if on_text and text.startswith(stream.sent) and text != stream.sent:
            on_text(text[len(stream.sent) :])
        maps = answer.similarity_maps
        return Reply(
            prompt=prompt,
            text=text,
            masks=(answer.mask_logits > 0).cpu().numpy(),
            scores=[float(score) for score in answer.mask_scores],
            layers=[int(layer) for layer in answer.layers],
            maps=None if maps is None else maps.float().cpu().numpy(),
            tokens=len(answer.token_ids),
            complete=len(answer.token_ids) < self.max_new_tokens,
            seconds=time.perf_counter() - start,
        )

    def segment_again(self, image: np.ndarray, history: Sequence[Turn], reply: Reply, layer: LayerChoice) -> Reply:
        """`reply` with the masks that another layer gives: one reading of the same words instead of writing them anew.

        image and history as they were when `reply` was given; layer: None for the session's.
        """
        layer = self.layer if layer is None else layer
        start = time.perf_counter()
        answered = [*(turn for turn in history if turn.answer), reply.turn]
        found = self.model.segment(self._batch(image, answered).to(self.model.device), layer=layer)[0]
        first = len(found.mask_logits) - len(reply.masks)  # the targets of earlier answers come before
        logits, maps = found.mask_logits[first:], found.similarity_maps
        return replace(
            reply,
            masks=(logits > 0).cpu().numpy(),
            scores=mask_scores(logits).tolist(),
            layers=found.layers[first:],
            maps=None if maps is None else maps[first:].float().cpu().numpy(),
            seconds=time.perf_counter() - start,
        )

    def _batch(self, image: np.ndarray, turns: Sequence[Turn]) -> Batch:
        targets = sum(len(_TARGET.findall(turn.answer)) for turn in turns if turn.answer)
        unknown = np.zeros((targets, *image.shape[:2]), np.uint8)
        sample = Sample(Path("the image"), image, [tuple(turns)], unknown, None, family="chat", dataset="chat")
        return self._collate([sample])


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
        """The text that this token makes certain, often empty or one word."""
        self._token_ids.append(int(token_id))
        text = _UNFINISHED.sub("", self._decode(self._token_ids)).strip()
        if not text.startswith(self.sent):
            return ""
        piece, self.sent = text[len(self.sent) :], text
        return piece
