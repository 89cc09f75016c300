"""What `viewer.js` shows of a visit: the image, its masks as outlines with their facts, and what was not found."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import gradio as gr
import numpy as np

from dashboard import markup
from dashboard.conversation import verdict
from dashboard.exchanges import Exchange, Target
from dashboard.visit import Visit
from groundscore.colours import text_on
from groundscore.exchange.regions import outlines
from groundscore.scoring import percent

SCRIPT = Path(__file__).with_name("viewer.js")
NOTHING_YET = "The image and its masks appear here."
OUTLINE_SIDE = 800  # pixels of the masks whose outlines are sent


def lay_out_viewer(elem_id: str) -> gr.HTML:
    """The component; its value is that of `viewer_value`, and its `input` events are clicks and boxes."""
    return gr.HTML(
        viewer_value(None),
        html_template="",
        js_on_load=SCRIPT.read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="viewer",
    )


def viewer_value(visit: Visit | None, tools: Sequence[dict] = ()) -> str:
    """JSON of the image and, where an exchange is shown, its masks; coordinates are those of the preview.

    tools: what clicks can do, as `pointing.TOOLS`.
    """
    if visit is None or visit.preview is None:
        return json.dumps({"hint": NOTHING_YET, "masks": []})
    preview, exchange = visit.preview, visit.exchange
    masks = [] if exchange is None else _masks(exchange, (preview.width, preview.height))
    count = "no masks" if not masks else "1 mask" if len(masks) == 1 else f"{len(masks)} masks"
    value = {
        "token": None if exchange is None else exchange.number,
        "image": markup.file_address(preview.path),
        "width": preview.width,
        "height": preview.height,
        "description": f"The image with {count}; plus and minus zoom, arrows move",
        "verdict": None if exchange is None else verdict(exchange),
        "masks": masks,
        "tools": list(tools),
        "undo": visit.can_undo,
    }
    return json.dumps(value)


def _masks(exchange: Exchange, size: tuple[int, int]) -> list[dict]:
    masks = []
    for number, (target, colour) in enumerate(zip(exchange.targets, exchange.colours, strict=True), start=1):
        path, at = _drawn(target.mask(), size)
        masks.append(
            {
                "number": number,
                "colour": "#{:02x}{:02x}{:02x}".format(*colour),
                "ink": "#{:02x}{:02x}{:02x}".format(*text_on(colour)),
                "path": path,
                "at": at,
                "facts": _facts(target, exchange.size),
            }
        )
    return masks


def _facts(target: Target, size: tuple[int, int]) -> list[tuple[str, str, str]]:
    """What the legend says of a mask: values, each between the words before and after it."""
    if not target.pixels:
        return [("", "nothing found", "")]
    share = 100 * target.pixels / (size[0] * size[1])
    facts = [("", f"{share:.1f} %", "of the image"), ("score", percent(target.score), "")]
    return facts if target.layer is None else [*facts, ("layer", str(target.layer), "")]


def _drawn(mask: np.ndarray, size: tuple[int, int]) -> tuple[str, list[float] | None]:
    """The outline of a mask as an SVG path and the point deepest inside it, both for an image of `size`, (W, H)."""
    if not mask.any():
        return "", None
    scale = min(1.0, OUTLINE_SIDE / max(mask.shape))
    small = mask.astype(np.uint8)
    if scale < 1:
        small = cv2.resize(small * 255, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) > 127
        small = small.astype(np.uint8)
    if not small.any():  # thinner than the pixels that are left
        small = (cv2.resize(mask.astype(np.float32), small.shape[::-1], interpolation=cv2.INTER_AREA) > 0).astype(
            np.uint8
        )
    across, down = size[0] / small.shape[1], size[1] / small.shape[0]
    rings = (ring for part in outlines(small) for ring in (part.outer, *part.holes))
    path = "".join("M" + "L".join(f"{x * across:.1f} {y * down:.1f}" for x, y in ring.tolist()) + "Z" for ring in rings)
    depth = cv2.distanceTransform(np.pad(small, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return path, [round((column + 0.5) * across, 1), round((row + 0.5) * down, 1)]
