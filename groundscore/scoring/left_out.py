"""Saying that scores are not those of the whole split, wherever scores are shown."""

from collections.abc import Mapping
from typing import Any

from groundscore.errors import printable

SHOWN = 3  # entries that a note names


def left_out_note(scores: Mapping[str, Any]) -> str:
    """A sentence about the entries that a split's scores are without; empty where there are none.

    scores: of a split, as in a report; those of earlier versions left nothing out.
    """
    entries = scores.get("left_out_entries", ())
    if not entries:
        return ""
    names = [entry["image"] or entry["reason"] for entry in entries[:SHOWN]]
    more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return printable(
        f"NOT THE WHOLE SPLIT: {len(entries)} bad {'entry is' if len(entries) == 1 else 'entries are'} left out "
        f"({', '.join(names)}{more}); compare only with scores of the same expressions"
    )
