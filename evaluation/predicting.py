"""The model's masks for the expressions of a batch, from given or from generated answers; all of it on the device.

Legend: E expressions of a part, P predictions (E; for MUSE one per target of an answer), Q places in given answers,
H W pixels.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.batches import Part, Work
from evaluation.protocol import Protocol
from evaluation.questions import TARGET, Place


@dataclass
class Predicted:
    """What was predicted about one part.

    masks: bool [P, H, W]; of a rejected expression the mask that would have been drawn, where there is one.
    counts [E]: how many of the masks are each expression's.
    accepted: bool [E], on the device: the model says that the target is there.
    broken: int64 scalar, how many of its logits are not finite.
    layers: int64, the hidden states that prompted its masks.
    silent: expressions without a `[SEG]` of their own in what was generated.
    texts [E]: what the generated answers say of each, None where they were given.
    """

    masks: Tensor
    counts: list[int]
    accepted: Tensor
    broken: Tensor
    layers: Tensor
    silent: int
    texts: list[str | None]


def predict(model, work: Work, protocol: Protocol, decode: Callable[[list[int]], str]) -> list[Predicted]:
    """Predictions for every part of a batch that is on the model's device."""
    if protocol.answer == "given":
        return _from_given(model, work, protocol)
    return _from_generated(model, work, protocol, decode)


def _from_given(model, work: Work, protocol: Protocol) -> list[Predicted]:
    forced = model.force(work.batch, work.decided, protocol.layer)
    accepted = _accepted(
        model.config, forced.written, [place for part in work.parts for place in part.questions.places]
    )
    sizes = [len(part.questions.places) for part in work.parts]
    return [
        _of_places(part, logits, accepts, layers)
        for part, logits, accepts, layers in zip(
            work.parts, forced.mask_logits, accepted.split(sizes), forced.layers.split(sizes), strict=True
        )
    ]


def _accepted(config, written: Tensor, places: list[Place]) -> Tensor:
    """bool [Q]: whether the target of each place is taken as present.

    Where `[SEG]` is given any other token counts as a rejection, where `[REJ]` is given any other token counts as
    acceptance (the reference's rule).
    """

    def flags(values) -> Tensor:
        return torch.tensor(list(values), dtype=torch.bool).to(written.device, non_blocking=True)

    is_seg = flags(place.is_seg for place in places)
    judged = flags(place.judged for place in places)
    rejects = config.rej_token_ids[0] if config.rej_token_ids else -1
    accepts = torch.where(is_seg, written == config.seg_token_ids[0], written != rejects)
    return accepts | ~judged


def _of_places(part: Part, logits: Tensor, accepts: Tensor, layers: Tensor) -> Predicted:
    """The masks [m, H, W] of a part's places as one prediction per expression, or for MUSE one per place."""
    places = part.questions.places
    expressions = len(part.questions.expressions)
    owner = [place.expression for place in places]
    drawn = logits > 0
    if owner == list(range(expressions)):
        masks, accepted = drawn, accepts
    else:
        accepted = accepts.new_zeros(expressions)
        for place, number in enumerate(owner):
            accepted[number] |= accepts[place]
        masks = drawn
        if not part.questions.separate:
            masks = drawn.new_zeros((expressions, *drawn.shape[1:]))
            for place, number in enumerate(owner):
                masks[number] |= drawn[place] & (accepts[place] | ~accepted[number])
    return Predicted(
        masks=masks,
        counts=[owner.count(number) for number in range(expressions)] if part.questions.separate else [1] * expressions,
        accepted=accepted,
        broken=(~logits.isfinite()).sum(),
        layers=layers,
        silent=0,
        texts=[None] * expressions,
    )


def _from_generated(model, work: Work, protocol: Protocol, decode) -> list[Predicted]:
    answers = iter(model.generate(work.batch, max_new_tokens=protocol.max_new_tokens, layer=protocol.layer))
    predicted = []
    for part in work.parts:
        own = [next(answers) for _ in part.questions.with_seg]
        predicted.append(_of_answers(part, own, model.device, [decode(answer.token_ids) for answer in own]))
    assert next(answers, None) is None
    return predicted


def _of_answers(part: Part, answers: list, device: torch.device, texts: list[str]) -> Predicted:
    """The answers to a part's questions as predictions of its expressions."""
    expressions = len(part.questions.expressions)
    size = part.truth.shape[1:]
    logits = [answer.mask_logits.to(device) for answer in answers]
    drawn = [masks > 0 for masks in logits]
    if part.questions.separate:
        counts = [len(masks) for masks in drawn]
        present = [count > 0 for count in counts]
        masks = torch.cat(drawn)
    elif part.questions.joint:
        # The n-th target of the answer is for the n-th expression; what was not written is rejected.
        (decisions,) = [answer.decisions for answer in answers]
        present = (decisions + [False] * expressions)[:expressions]
        own = iter(drawn[0])
        empty = torch.zeros(size, dtype=torch.bool, device=device)
        masks, counts = torch.stack([next(own) if there else empty for there in present]), [1] * expressions
    else:
        present = [len(answer.seg_indices) > 0 for answer in answers]
        masks, counts = torch.stack([each.any(0) for each in drawn]), [1] * expressions
    return Predicted(
        masks=masks,
        counts=counts,
        accepted=torch.tensor(present, dtype=torch.bool).to(device, non_blocking=True),
        broken=torch.stack([(~each.isfinite()).sum() for each in logits]).sum(),
        layers=torch.tensor([int(layer) for answer in answers for layer in answer.layers], device=device).long(),
        silent=present.count(False),
        texts=_share_text(texts[0], expressions) if part.questions.joint else texts,
    )


def _share_text(text: str, expressions: int) -> list[str]:
    """What a joint answer says of each expression: up to its target; those without one have what follows the last."""
    pieces = re.findall(rf".*?(?:{TARGET.pattern})", text, re.DOTALL)
    rest = text[len("".join(pieces)) :]
    return (pieces + [rest] * expressions)[:expressions]
