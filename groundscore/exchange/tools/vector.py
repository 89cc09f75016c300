"""Outlines as SVG and as GeoJSON, with holes, along the edges of pixels: exact masks for drawing programs and maps.

Both have the origin at the upper left corner of the image, x to the right and y down.
"""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from groundscore.annotations.image_files import open_image, upright
from groundscore.colours import choose_colours
from groundscore.exchange.regions import NewImages, RegionImage, ToolFormat, outlines
from groundscore.writing import write_json, write_text

_KINDS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp", b"GI": "gif", b"BM": "bmp"}


def write_svg(images: Iterable[RegionImage], out: Path) -> None:
    """Write an SVG for each image, which holds the image itself."""
    names = NewImages(out)
    for image in images:
        path = out / names.add(image)
        path.unlink()  # its name was taken; the image is in the SVG
        write_text(path.with_suffix(".svg"), svg_of(image))


def svg_of(image: RegionImage) -> str:
    """Returns the image with a path of every region, filled by the even-odd rule."""
    height, width = image.size
    content = image.upright_content
    kind = _KINDS.get(content[:2], "jpeg")
    data = base64.b64encode(content).decode("ascii")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<image width="{width}" height="{height}" href="data:image/{kind};base64,{data}"/>',
    ]
    name = Path(image.name)
    pixels = np.asarray(upright(open_image(name, content=image.content), name).convert("RGB"))
    colours = choose_colours(pixels, [one.pixels for one in image.regions])
    for one, (red, green, blue) in zip(image.regions, colours, strict=True):
        rings = (ring for part in outlines(one.pixels) for ring in (part.outer, *part.holes))
        drawn = "".join("M" + "L".join(f"{x} {y}" for x, y in ring.tolist()) + "Z" for ring in rings)
        lines.append(
            f'<path d="{drawn}" fill="rgb({red},{green},{blue})" fill-opacity="0.5" fill-rule="evenodd" '
            f"data-label={quoteattr(one.label)}><title>{escape(one.label)}</title></path>"
        )
    return "\n".join([*lines, "</svg>", ""])


def write_geojson(images: Iterable[RegionImage], out: Path) -> None:
    """Write a GeoJSON file for each image, a feature for every region."""
    names = NewImages(out)
    for image in images:
        path = out / names.add(image)
        write_json(path.with_suffix(".geojson"), geojson_of(image, path.name), ensure_ascii=False, indent=None)


def geojson_of(image: RegionImage, file_name: str) -> dict[str, Any]:
    """Returns a FeatureCollection of polygons with holes, in pixels."""
    features = []
    for one in image.regions:
        parts = [[_closed(part.outer), *map(_closed, part.holes)] for part in outlines(one.pixels)]
        geometry = (
            {"type": "Polygon", "coordinates": parts[0]}
            if len(parts) == 1
            else {"type": "MultiPolygon", "coordinates": parts}
        )
        properties = {"label": one.label, "texts": list(one.texts), "score": one.score}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    height, width = image.size
    return {"type": "FeatureCollection", "image": file_name, "width": width, "height": height, "features": features}


def _closed(ring: np.ndarray) -> list[list[int]]:
    return [*ring.tolist(), ring[0].tolist()]


SVG = ToolFormat("svg", "an SVG for each image, which holds it", write=write_svg)
GEOJSON = ToolFormat("geojson", "polygons with holes in the form of GeoJSON, in pixels", write=write_geojson)
