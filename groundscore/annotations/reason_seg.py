"""ReasonSeg on disk: a folder for every split, and a file of explanations."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from groundscore.annotations.images import list_images, list_stems
from groundscore.annotations.json_files import NOT_OFFICIAL, check_text, read_each, require_path, require_text
from groundscore.annotations.labelme import ReasonAnnotation, read_annotation
from groundscore.errors import UserError, shown
from groundscore.names import did_you_mean
from groundscore.reading import MISSING, read_json
from groundscore.targets import refuse_targets


def list_split(dataset_dir: Path, name: str, split: str) -> list[Path]:
    """Returns the images of a split in the order of their names; the annotation of each has the same stem.

    An image whose annotation lacks and an annotation whose image lacks (it gets the name that it should have) are among
    them: what is missing is told where it is read.
    """
    folder = split_folder(dataset_dir, name, split)
    images = list_images(folder)
    stems = sorted({*images, *list_stems(folder, ".json").tolist()})
    return [folder / images.get(stem, f"{stem}.jpg") for stem in stems]


def split_folder(dataset_dir: Path, name: str, split: str) -> Path:
    """Returns the folder of a split; raises `UserError` where there is none."""
    if not {name, split}.isdisjoint({"", ".", ".."}) or "/" in name + split:
        raise UserError(f"ReasonSeg's splits are folders of reason_seg/NAME, which {name}|{split} is not")
    folder = dataset_dir / "reason_seg" / name / split
    if not folder.is_dir():
        known = sorted(path.name for path in folder.parent.glob("*") if path.is_dir() and path.name != "explanatory")
        raise UserError(
            f"{folder} is missing; "
            + (f"its siblings are {', '.join(known)}" if known else MISSING)
            + did_you_mean(split, known)
        )
    return folder


def read_split(images: Sequence[Path]) -> tuple[list[tuple[Path, ReasonAnnotation]], list[str]]:
    """Returns the images of a split with their annotations, and what is wrong with the bad entries among them.

    Raises one `BrokenFile` for all annotation files that are not built as they should be.
    """
    return read_each(images, lambda image, _: (image, read_annotation(image.with_suffix(".json"))))


def read_explanations(dataset_dir: Path, name: str) -> dict[str, str]:
    """Returns explanations by the file name of their image."""
    path = dataset_dir / "reason_seg" / name / "explanatory" / "train.json"
    explanations: dict[str, str] = {}
    questions: dict[tuple[str, Any], str] = {}

    def read(item: Any, number: int) -> None:
        where = f"{path}: item {number}"
        image = PurePosixPath(require_path(item, "image", where)).name
        explanation = refuse_targets(require_text(item, "outputs", where), where)
        query = item.get("query")
        if query is not None:
            check_text(query, f"{where}: 'query'")
        if questions.setdefault((image, query), explanation) != explanation:
            raise UserError(f"{where}: {shown(image)} has another explanation of the same question; {NOT_OFFICIAL}")
        explanations[image] = explanation

    missing = "fetch it, or train without explanations: --explanatory -1"
    read_each(read_json(path, list, missing=missing), read)
    return explanations
