"""Formats of annotation tools, in and out: one a file, registered here. All are read to `regions.RegionImage`."""

import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from groundscore.errors import UserError
from groundscore.exchange.regions import RegionImage, ToolFormat, ToolOptions
from groundscore.exchange.tools.coco import COCO, COCO_RESULTS
from groundscore.exchange.tools.custom import CUSTOM
from groundscore.exchange.tools.cvat import CVAT
from groundscore.exchange.tools.label_studio import LABEL_STUDIO
from groundscore.exchange.tools.labelme import LABELME
from groundscore.exchange.tools.parquet import PARQUET
from groundscore.exchange.tools.png import PNG
from groundscore.exchange.tools.vector import GEOJSON, SVG
from groundscore.exchange.tools.yolo import YOLO
from groundscore.names import look_up
from groundscore.writing import make_directory

# In the order in which `read_regions` tries them.
TOOLS = {
    one.name: one for one in (CUSTOM, CVAT, PARQUET, YOLO, LABEL_STUDIO, COCO, LABELME, PNG, COCO_RESULTS, SVG, GEOJSON)
}
_PLAIN = ToolOptions()
READABLE = [name for name, one in TOOLS.items() if one.read is not None]
WRITABLE = [name for name, one in TOOLS.items() if one.write is not None]


def read_regions(path: Path, name: str = "", options: ToolOptions = _PLAIN) -> Iterator[RegionImage]:
    """Yields the images of a file or folder. name: of its format, "" for what it looks like."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not name:
        name = next((one.name for one in TOOLS.values() if one.read is not None and one.recognises(path)), "")
    if not name:
        raise UserError(f"{path} looks like none of {', '.join(READABLE)}; --from says what it is")
    read = look_up(name, TOOLS, "format").read
    if read is None:
        raise UserError(f"{name} is only written; what can be read is {', '.join(READABLE)}")
    return read(path, options)


def export_forms(text: str) -> tuple[str, ...]:
    """Returns the forms of masks that a list joined by commas names; `UserError` for one that is not written."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    forms = {name: TOOLS[name] for name in WRITABLE if name != CUSTOM.name}
    for name in names:
        look_up(name, forms, "form of masks")
    return names


def write_regions(images: Iterable[RegionImage], out: Path, name: str) -> None:
    """Write images into a folder, which is new or empty, in the format of this name."""
    write = look_up(name, TOOLS, "format").write
    if write is None:
        raise UserError(f"{name} is only read; what can be written is {', '.join(WRITABLE)}")
    if name == CUSTOM.name:
        write(images, out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; choose another folder")
    make_directory(out.parent)
    beside = out.with_name(f".{out.name}.{secrets.token_hex(6)}.writing")
    beside.mkdir()
    try:
        write(images, beside)
        beside.replace(out)
    except BaseException:  # so that the same command can be repeated
        shutil.rmtree(beside, ignore_errors=True)
        raise


__all__ = ["READABLE", "TOOLS", "WRITABLE", "ToolFormat", "export_forms", "read_regions", "write_regions"]
