"""Samples of a split, answered by a model, as rows of a contact sheet."""

from collections.abc import Sequence

from groundscore.annotations.repairs import Tolerance
from groundscore.scoring.counts import expression_counts, iou
from groundscore.splits import EvaluationItem, spread_items
from inference.session import ChatSession
from utils.contact_sheet import SheetRow


def sample_rows(
    session: ChatSession, spec: str, items: Sequence[EvaluationItem], count: int, tolerance: Tolerance
) -> list[SheetRow]:
    """`count` expressions, spread evenly over the split, answered by the model and laid out for a contact sheet."""
    rows = []
    for number, item in enumerate(spread_items(items, count, tolerance)):
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
