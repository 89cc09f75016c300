"""What SAM 3's agent writes: a JSON file for each image and text, `<image>_<text>_agent_<model>_pred.json`.

    {"image_path": "…/COCO_train2014_000000000009.jpg", "text_prompt": "the left bowl", "orig_img_h": 480,
     "orig_img_w": 640, "pred_boxes": […], "pred_scores": […], "pred_masks": ["RLE counts", …]}

The masks are compressed RLE without their size, which the image's is; no mask is the agent's answer that there is no
target. An expression is found by the image's file name and the text. (Layout: `sam3/agent/inference.py` and
`client_sam3.py` of facebookresearch/sam3.)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import UnknownKeys
from groundscore.exchange.predictions import PredictionFormat, Predictions
from groundscore.exchange.records import Gathered, beginning
from groundscore.reading import read_json
from groundscore.schema import Shape, ShapeError, anything, either, list_of, mapping, text, whole
from groundscore.splits import OpenSplit

_ENDING = "_pred.json"
_SHAPES: dict[str, Shape] = {
    "text_prompt": text,
    "orig_img_h": whole(1),
    "orig_img_w": whole(1),
    "pred_masks": list_of(either(text, mapping(anything, at_least=("size", "counts")))),
}
_IMAGE = ("image_path", "original_image_path")  # either of them
_UNUSED = ("output_image_path", "pred_boxes", "pred_scores")


def read_sam3_agent(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The predictions in a folder of the agent's results, or in one of its files."""
    files = (sorted(path.rglob(f"*{_ENDING}")) or sorted(path.rglob("*.json"))) if path.is_dir() else [path]
    gathered = Gathered(path, splits, once=True, protocol="generated")
    unknown = UnknownKeys((*_SHAPES, *_IMAGE, *_UNUSED))
    for file in files:
        content = _read(file)
        unknown.note(content, str(file))
        size = [content["orig_img_h"], content["orig_img_w"]]
        masks = [mask if isinstance(mask, dict) else {"size": size, "counts": mask} for mask in content["pred_masks"]]
        image = next(content[key] for key in _IMAGE if key in content)
        record = {"image_path": image, "text_prompt": content["text_prompt"]}
        gathered.add(record, str(file), masks, present=bool(masks))
    return gathered.predictions(unknown)


def _read(file: Path) -> dict[str, Any]:
    content = read_json(file, dict, missing="SAM 3's agent writes it", remedy="run the agent again")
    shapes = _SHAPES | {next((key for key in _IMAGE if key in content), _IMAGE[0]): text}
    for key, shape in shapes.items():
        if key not in content:
            raise UserError(f"{file} is not a result of SAM 3's agent: it has no {key!r}, but {shown(list(content))}")
        try:
            shape(content[key], key)
        except ShapeError as error:
            raise UserError(f"{file} is not a result of SAM 3's agent: {error}") from error
    return content


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return any(path.rglob(f"*{_ENDING}"))
    return path.is_file() and b'"pred_masks"' in beginning(path)


SAM3_AGENT = PredictionFormat(
    name="sam3_agent",
    help="the folder of *_pred.json that SAM 3's agent writes",
    recognises=_recognises,
    read=read_sam3_agent,
)
