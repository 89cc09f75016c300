"""Samples of a split, answered by a model, as rows of a contact sheet."""

from collections.abc import Sequence

from dataloaders.evaluation import EvaluationItem
from utils.chat_session import ChatSession
from utils.contact_sheet import SheetRow
from utils.scoring.counts import expression_counts, iou


def sample_rows(session: ChatSession, spec: str, items: Sequence[EvaluationItem], count: int) -> list[SheetRow]:
    """`count` expressions, spread evenly over the split, answered by the model and laid out for a contact sheet."""
    rows = []
    count = min(count, len(items))
    for number in range(count):
        item = items[(2 * number + 1) * len(items) // (2 * count)]
        which = number % len(item.prompts)
        reply = session.ask(item.image, (), item.prompts[which])
        truth = item.masks[which] != 0
        (intersection,), (union,), *_ = expression_counts(reply.masks.any(0)[None], truth[None], item.ignore)
        rows.append(
            SheetRow(
                image=item.image,
                masks=reply.masks,
                question=item.prompts[which].strip(),
                answer=reply.text,
                truth=truth,
                ignore=item.ignore,
                similarity=None if reply.maps is None or not len(reply.maps) else reply.maps[0],
                layer=reply.layers[0] if reply.layers else None,
                label=spec,
                iou=iou(intersection, union),
            )
        )
    return rows
