"""Masks that are files or arrays named by an id: a folder of PNGs, or a NumPy archive.

    masks/000000000009_0.png           a mask, pixels that are not 0; without such pixels: there is no target
    masks/000000000009_1/0.png, 1.png  several masks of one question of MUSE, or parts of one mask; one without pixels
                                       alone: there is no target
    masks/refcoco_unc_val/…            the same for one of several splits: its name with _ for other characters

In an archive (`numpy.savez_compressed("masks.npz", **{id: mask})`) the keys are the ids, and arrays are [H, W] or
[n, H, W]; it may hold `ids` [N] and `masks` [N, H, W] instead. Ids are any of `addresses.py`; nothing in an archive is
unpickled.
"""

import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from groundscore.annotations.label_maps import read_mask
from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import Addresses, resolve_names
from groundscore.exchange.predictions import Prediction, PredictionFormat, Predictions, add_prediction
from groundscore.reading import MAX_MEGABYTES, most_bytes
from groundscore.scoring.masks import parts_of
from groundscore.scoring.metrics import kind_of
from groundscore.splits import OpenSplit

_PNG = ".png"
_SHARE = 8  # an array of an archive may have this part of the size that a file may have
# What zipfile, zlib and numpy raise for a damaged archive; an unknown compression is a NotImplementedError.
_DAMAGED = (ValueError, KeyError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error,
            tokenize.TokenError, SyntaxError, MemoryError)  # fmt: skip
Read = Callable[[], Any]


def slug(spec: str) -> str:
    """The name of a split as a folder: "refcoco_unc_val"."""
    return re.sub(r"[^\w+.-]", "_", spec)


# --- a folder of PNGs -------------------------------------------------------------------------------------------------


def read_png_folder(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The predictions in a folder of PNGs."""
    found: Predictions = {}
    for spec, split in splits.items():
        folder = path / slug(spec)
        if not folder.is_dir():
            if len(splits) > 1:
                raise UserError(f"{path} has no folder {slug(spec)} for {spec}; put the masks of each split in its own")
            folder = path
        masks: dict[str, list[Path]] = {}
        for file in sorted([*folder.glob(f"*{_PNG}"), *folder.glob(f"*/*{_PNG}")]):
            _check_inside(file, folder)
            masks.setdefault(file.stem if file.parent == folder else file.parent.name, []).append(file)
        if not masks:
            raise UserError(f"{folder} has no {_PNG} file")
        named = {name: (str(files[0]), partial(list, files)) for name, files in masks.items()}
        _add(found, spec, split, named, str(folder), ids)
    return found


def _check_inside(file: Path, folder: Path) -> None:
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{file} is a link to a file outside {folder}; copy it there")


# --- NumPy archives ---------------------------------------------------------------------------------------------------


def read_npz(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The predictions in a NumPy archive; an array is read when it is counted."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            large = [one for one in archive.infolist() if one.file_size > most_bytes() // _SHARE]
    except _DAMAGED as error:
        raise UserError(f"{path} is not a NumPy archive ({error}); write it with numpy.savez_compressed") from error
    if large:
        raise UserError(
            f"{path}: {shown(large[0].filename)} has {large[0].file_size >> 20} MB unpacked, more than "
            f"{most_bytes() // _SHARE >> 20}; write bool arrays, one for each id, or set {MAX_MEGABYTES}"
        )
    if {"ids", "masks"} <= set(names):
        rows = _array(path, "ids")
        if rows.ndim != 1 or rows.dtype.kind not in "USiu":
            raise UserError(f"{path}: 'ids' should be a list of texts or numbers, it is {rows.dtype} {rows.shape}")
        stack = _array(path, "masks")
        if stack.ndim != 3 or len(stack) != len(rows):
            raise UserError(f"{path}: 'masks' should be [{len(rows)}, H, W] as 'ids' are, it is {list(stack.shape)}")
        by_name: dict[str, list[int]] = {}
        for row, name in enumerate(rows.tolist()):
            by_name.setdefault(name.decode() if isinstance(name, bytes) else str(name), []).append(row)
        masks = {name: partial(stack.__getitem__, some) for name, some in by_name.items()}
    else:
        masks = {name: partial(_array, path, name) for name in names}
    found: Predictions = {}
    for spec, split in splits.items():
        own = {PurePosixPath(name).name: read for name, read in masks.items() if name.startswith(f"{slug(spec)}/")}
        if not own and len(splits) > 1:
            raise UserError(f"{path} has no key below {slug(spec)}/ for {spec}; name the masks of each split so")
        named = {name: (f"{path}, {name}", read) for name, read in (own or masks).items()}
        _add(found, spec, split, named, str(path), ids)
    return found


def _array(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except _DAMAGED as error:
        reason = "it holds Python objects, which are not read" if "pickle" in str(error) else str(error)
        raise UserError(f"{path}: {shown(name)} cannot be read ({reason})") from error


def _add(
    found: Predictions,
    spec: str,
    split: OpenSplit,
    named: Mapping[str, tuple[str, Read]],
    where: str,
    ids: str | None,
) -> None:
    """Adds the predictions of a split. named: for each name what it is called in errors, and what reads its masks."""
    several = kind_of(spec) == "muse"
    for name, addresses in resolve_names(named, Addresses(split), where, ids).items():
        for one in addresses:
            add_prediction(
                found,
                spec,
                Prediction(
                    where=named[name][0],
                    entry=one.entry,
                    image=one.image,
                    expression=one.expression,
                    masks=partial(_question_masks, named[name][1]) if several else named[name][1],
                ),
            )


def _question_masks(read: Read) -> list[Any]:
    """The masks of a question of MUSE; none where there is one, and it has no pixel."""
    masks = [read_mask(part) if isinstance(part, Path) else part for part in parts_of(read())]
    return [] if len(masks) == 1 and not masks[0].any() else masks


def _has_png(path: Path) -> bool:
    return path.is_dir() and any(_pngs(path))


def _pngs(path: Path) -> Iterable[Path]:
    for pattern in ("*", "*/*", "*/*/*"):
        yield from path.glob(pattern + _PNG)


PNG_FOLDER = PredictionFormat(
    name="png",
    help="a folder of PNG masks named by the ids of expressions",
    recognises=_has_png,
    read=read_png_folder,
)
NPZ = PredictionFormat(
    name="npz",
    help="a NumPy archive of masks whose keys are the ids of expressions",
    recognises=lambda path: path.is_file() and path.suffix == ".npz",
    read=read_npz,
)
