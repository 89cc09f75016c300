"""Tables with an image and a mask in a row: parquet files, and what `datasets` of Hugging Face saves to disk.

Columns are found by their names and kinds, or named with --columns. An image is encoded bytes, or {bytes, path}; a mask
the same (a PNG), COCO RLE, a matrix of truth values (as ReasonSeg is published), or a list of these. A row's "text"
is a text or several. Rows about one image stay rows of their own.
"""

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from groundscore.annotations.image_files import open_image, upright
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.exchange.regions import RegionImage, ToolFormat, ToolOptions, region
from groundscore.writing import make_directory

_NAMES = {
    "image": ("image", "img", "pixel_values", "photo"),
    "mask": ("mask", "masks", "segmentation", "segmentation_mask", "label_mask", "gt_mask", "annotation"),
    "text": (
        "text",
        "texts",
        "expression",
        "caption",
        "query",
        "question",
        "sentence",
        "phrase",
        "label",
        "category",
        "name",
    ),
}
_ROWS = 16  # at a time


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the rows of a file, or of all files of a folder."""
    files = [path] if path.is_file() else sorted([*path.rglob("*.parquet"), *path.rglob("*.arrow")])
    files = [file for file in files if not file.name.startswith((".", "cache-"))]
    if not files:
        raise UserError(f"{path} has no .parquet or .arrow file")
    number = 0
    for file in files:
        for rows, columns in _batches(file, options):
            for row in rows:
                yield _read(row, columns, f"{file}: row {number}", number)
                number += 1


def _batches(file: Path, options: ToolOptions) -> Iterator[tuple[list[dict], dict[str, str]]]:
    try:
        if file.suffix == ".parquet":
            table = pq.ParquetFile(file)
            columns = _columns(table.schema_arrow, file, options)
            wanted = [
                *dict.fromkeys([*columns.values(), *({"image_id", "id", "file_name"} & set(table.schema_arrow.names))])
            ]
            for batch in table.iter_batches(_ROWS, columns=wanted):
                yield batch.to_pylist(), columns
        else:
            with pa.memory_map(str(file)) as source:
                stream = pa.ipc.open_stream(source)
                columns = _columns(stream.schema, file, options)
                for batch in stream:
                    for start in range(0, len(batch), _ROWS):
                        yield batch.slice(start, _ROWS).to_pylist(), columns
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} cannot be read as a table ({error})") from error


def _columns(schema: pa.Schema, file: Path, options: ToolOptions) -> dict[str, str]:
    """Returns the names of the columns by what they hold."""
    found = {}
    for kind, names in _NAMES.items():
        named = options.columns.get(kind)
        if named is not None and named not in schema.names:
            raise UserError(f"{file} has no column {named!r}; it has {', '.join(schema.names)}")
        name = named or next((name for name in names if name in schema.names), None)
        if name is None and (kind != "text" or not options.label):
            raise UserError(
                f"{file} has no column that is known as {kind}; name one with --columns {kind}=NAME: "
                f"{', '.join(schema.names)}"
            )
        if name is not None:
            found[kind] = name
    return found


def _read(row: dict[str, Any], columns: dict[str, str], where: str, number: int) -> RegionImage:
    content, name = _bytes(row[columns["image"]], f"{where}, {columns['image']!r}")
    opened = open_image(Path(where), content=content)
    image = upright(opened, Path(where))
    size = (image.height, image.width)
    own = next((row[key] for key in ("image_id", "id", "file_name") if isinstance(row.get(key), str | int)), None)
    stem = Path(name or str(number if own is None else own)).name
    suffix = f".{(opened.format or 'png').lower()}".replace("jpeg", "jpg")
    name = (
        stem
        if Path(stem).suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
        else f"{stem}{suffix}"
    )
    texts = row.get(columns.get("text", ""))
    texts = [text for text in (texts if isinstance(texts, list) else [texts]) if isinstance(text, str) and text.strip()]
    masks = _masks(row[columns["mask"]], size, f"{where}, {columns['mask']!r}")
    if not texts:
        raise UserError(f"{where} has no text in {columns.get('text', 'any column')!r}")
    if len(masks) > 1 and len(masks) == len(texts):
        regions = [region(text, mask) for text, mask in zip(texts, masks)]
    else:
        regions = [region(texts[0], mask, texts[1:]) for mask in masks]
    if not all(region.pixels.any() for region in regions) or not regions:
        raise UserError(f"{where}: its mask is empty; leave such rows out")
    return RegionImage(content, name, size, tuple(regions), None, where)


def _bytes(value: Any, where: str) -> tuple[bytes, str]:
    """Returns encoded content and its name, "" for none."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value["bytes"], Path(value.get("path") or "").name
    if isinstance(value, bytes):
        return value, ""
    if isinstance(value, dict) and value.get("path"):
        raise UserError(f"{where} only names a file, {shown(value['path'])}; save the data with its images in it")
    raise UserError(f"{where} is no image: encoded bytes are, or {{bytes, path}}, not {shown(value)}")


def _masks(value: Any, size: tuple[int, int], where: str) -> list[np.ndarray]:
    if isinstance(value, bytes) or (isinstance(value, dict) and "bytes" in value):
        content, _ = _bytes(value, where)
        mask = np.asarray(open_image(Path(where), ("PNG", "BMP", "GIF", "TIFF"), content=content).convert("L")) != 0
        return [_of_size(mask, size, where)]
    if isinstance(value, dict) and "counts" in value:
        return [decode_segmentation(value, *size, where)]
    if isinstance(value, list) and value and isinstance(value[0], list) and not isinstance((value[0] or [0])[0], list):
        return [_of_size(np.asarray(value, dtype=bool), size, where)]
    if isinstance(value, list):
        return [mask for one in value for mask in _masks(one, size, where)]
    raise UserError(f"{where} is no mask: a PNG, an RLE, a matrix or a list of these is, not {shown(value)}")


def _of_size(mask: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    if mask.shape != size:
        raise UserError(f"{where} is {mask.shape} (height, width), the image {size}")
    return mask


# --- writing ----------------------------------------------------------------------------------------------------------

_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_FEATURES = {
    "image": {"_type": "Image"},
    "text": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    "mask": {"_type": "Image"},
}


def write(images: Iterable[RegionImage], out: Path) -> None:
    """Write `data/train-00000-of-00001.parquet`, a row for each region, as `datasets` reads it."""
    features = json.dumps({"info": {"features": _FEATURES}})
    fields = [pa.field("image", _IMAGE), pa.field("text", pa.list_(pa.string())), pa.field("mask", _IMAGE)]
    schema = pa.schema(fields, metadata={"huggingface": features})
    make_directory(out / "data")
    with pq.ParquetWriter(out / "data" / "train-00000-of-00001.parquet", schema) as writer:
        for image in images:
            if image.ignore is not None:
                raise UserError(
                    f"{image.where or image.name} has pixels to ignore, for which a row has no place; write coco"
                )
            rows = []
            for one in image.regions:
                png = BytesIO()
                Image.fromarray(one.pixels * np.uint8(255)).save(png, "PNG")
                rows.append(
                    {
                        "image": {"bytes": image.upright_content, "path": image.name},
                        "text": [one.label, *one.texts],
                        "mask": {"bytes": png.getvalue(), "path": None},
                    }
                )
            if rows:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def _recognises(path: Path) -> bool:
    if path.is_file():
        return path.suffix in (".parquet", ".arrow")
    return path.is_dir() and any(any(path.rglob(pattern)) for pattern in ("*.parquet", "*.arrow"))


PARQUET = ToolFormat(
    "parquet",
    "tables with images and masks: parquet files, folders of Hugging Face's datasets",
    _recognises,
    read,
    write,
)
