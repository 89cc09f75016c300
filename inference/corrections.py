"""Masks from points and boxes that a user gives: to correct one of an answer, or to ask about a spot without words."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from dataloaders.batching.batch import PreparedImages
from dataloaders.sample import Turn
from groundscore.errors import UserError
from groundscore.targets import SEG, target_kinds
from inference.reply import Reply
from inference.session import ChatSession
from inference.spots import Spots
from model.decoders.base import INSIDE, OUTSIDE
from model.generation import mask_scores
from model.spots import SpotMask, SpotPrompt, correct_target, segment_spots


def takes_spots(session: ChatSession) -> bool:
    """Returns whether the mask decoder takes points and boxes; the others of this module raise `UserError` if not."""
    return session.model.decoder.takes_points


def correct_mask(
    session: ChatSession, image: np.ndarray, history: Sequence[Turn], reply: Reply, index: int, spots: Spots
) -> Reply:
    """Returns `reply` with the mask of one target prompted by `spots`, too, beside what its `[SEG]` state prompts.

    image and history as they were when `reply` was given; index: of the target, from 0. spots: all that the user has
    given for this mask: those of an earlier correction are not kept. The hidden state stays the one that gave the mask.
    """
    if not 0 <= index < len(reply.masks):
        raise UserError(f"there is no mask {index + 1} to correct: the answer has {len(reply.masks)}")
    start, layer = time.perf_counter(), reply.layers[index]
    spots = spots.checked(image.shape[:2])
    if layer is None:  # that of a spot
        found = _mask_of(session, image, spots)
    else:
        if not session.model.system.uses_policy or session.layer == "mixture":
            layer = session.layer
        answered = [*(turn for turn in history if turn.answer), reply.turn]
        batch = session.batch(image, [answered]).to(session.model.device)
        earlier = sum(int(target_kinds(turn.answer).sum()) for turn in answered[:-1])
        found = correct_target(session.model, batch, earlier + index, spot_prompt(session, spots), layer)
    return _with_mask(reply, index, found, time.perf_counter() - start)


def segment_at(session: ChatSession, image: np.ndarray, spots: Spots) -> Reply:
    """Returns the mask of what is at `spots`, without a question: the mask decoder's own answer, without the LLM.

    Its prompt says where that is, and its layer is None.
    """
    start = time.perf_counter()
    spots = spots.checked(image.shape[:2])
    found = _mask_of(session, image, spots)
    nothing = Reply(
        prompt=str(spots),
        text=SEG,
        masks=np.zeros((1, *image.shape[:2]), dtype=bool),
        scores=[0.0],
        layers=[None],
        maps=None,
        tokens=0,
        complete=True,
        seconds=0.0,
        objects=None if found.object_score is None else [True],
    )
    return _with_mask(nothing, 0, found, time.perf_counter() - start)


def _mask_of(session: ChatSession, image: np.ndarray, spots: Spots) -> SpotMask:
    prepare = session.processor.decoder_images
    prepared = prepare and PreparedImages.of([prepare(image)]).to(session.model.device)
    return segment_spots(session.model, prepared, image.shape[:2], spot_prompt(session, spots))


def spot_prompt(session: ChatSession, spots: Spots) -> SpotPrompt:
    """Returns points and box as tensors on the model's device."""
    device = session.model.device
    points = torch.tensor([[point.x, point.y] for point in spots.points], dtype=torch.float32, device=device)
    labels = [INSIDE if point.inside else OUTSIDE for point in spots.points]
    return SpotPrompt(
        points=points.reshape(-1, 2),
        labels=torch.tensor(labels, dtype=torch.int64, device=device),
        box=None if spots.box is None else torch.tensor(spots.box, dtype=torch.float32, device=device),
    )


def _with_mask(reply: Reply, index: int, found: SpotMask, seconds: float) -> Reply:
    """`reply` with another mask at `index`."""
    masks, scores = reply.masks.copy(), list(reply.scores)
    masks[index] = (found.logits > 0).cpu().numpy()
    scores[index] = float(mask_scores(found.logits.unsqueeze(0)))
    objects = None if reply.objects is None else list(reply.objects)
    if objects is not None and found.object_score is not None:
        objects[index] = bool(found.object_score > 0)
    return replace(reply, masks=masks, scores=scores, objects=objects, seconds=seconds)
