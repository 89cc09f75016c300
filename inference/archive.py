"""All of an answer in one ZIP, named after its image: what a front end offers for download. No torch.

kite.zip    kite_overlay.png       the image with its masks in colour, numbered
            kite_cutout.png        what the masks cover, the rest transparent
            kite_mask_1.png …      8 bits, 255 inside
            kite_rle.json          question, answer, and every mask as COCO's run-length encoding
            coco/ labelme/ …       as other tools read them, a folder for each
"""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groundscore.annotations.images import read_image
from groundscore.colours import Colour
from groundscore.drawing import cut_out, overlay
from groundscore.exchange.regions import answered_regions
from groundscore.exchange.tools import write_regions
from groundscore.scoring.masks import encode_mask
from groundscore.writing import written_whole
from inference.reply import Reply, safe_stem

FORMS = ("coco", "coco_results", "labelme", "yolo", "svg", "geojson")


def write_archive(
    path: Path, reply: Reply, image_path: Path, name: str, colours: Sequence[Colour], *, alpha: float = 0.5
) -> None:
    """Writes the ZIP of `reply` about the image at `image_path`.

    name: of the image's file as the user knows it. colours: of the masks; alpha: of the overlay. Files have the size of
    the image; where nothing was found there are the record and the image without a mask.
    """
    image, stem = read_image(image_path), safe_stem(Path(name))
    numbers = range(1, len(reply.masks) + 1)
    with written_whole(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        _add(archive, f"{stem}_overlay.png", overlay(image, reply.masks, colours, alpha=alpha, numbers=numbers))
        record = json.dumps(rle_record(reply, name, colours), indent=2, ensure_ascii=False) + "\n"
        archive.writestr(f"{stem}_rle.json", record, zipfile.ZIP_DEFLATED)
        for number, mask in zip(numbers, reply.masks, strict=True):
            _add(archive, f"{stem}_mask_{number}.png", mask.astype(np.uint8) * 255)
        if not reply.masks.any():
            return
        _add(archive, f"{stem}_cutout.png", cut_out(image, reply.masks))
        regions = answered_regions(image_path, reply.prompt, reply.masks, reply.scores, name=name)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            for form in FORMS:
                write_regions([regions], Path(folder, form), form)
            for file in sorted(each for each in Path(folder).rglob("*") if each.is_file()):
                archive.write(file, file.relative_to(folder), zipfile.ZIP_DEFLATED)


def rle_record(reply: Reply, name: str, colours: Sequence[Colour]) -> dict[str, Any]:
    """Returns question, answer and, for every mask, its run-length encoding and what is known of it, for JSON."""
    facts = zip(reply.masks, reply.areas, reply.shares, reply.scores, reply.layers, colours, strict=True)
    return {
        "image": name,
        "size": list(reply.masks.shape[1:]),
        "prompt": reply.prompt,
        "answer": reply.text,
        "targets": [
            {
                "segmentation": encode_mask(mask),
                "pixels": area,
                "share": round(share, 6),
                "score": round(score, 4),
                "layer": layer,
                "colour": list(colour),
            }
            for mask, area, share, score, layer, colour in facts
        ],
    }


def _add(archive: zipfile.ZipFile, name: str, pixels: np.ndarray) -> None:
    with archive.open(name, "w") as entry:
        Image.fromarray(pixels).save(entry, format="PNG", compress_level=3)
