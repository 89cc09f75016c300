"""The folder of all data sets, as users name it. Nothing heavy is imported, so that a mistake is told at once."""

from pathlib import Path

from groundscore.errors import UserError

# Folders of data sets; a root has at least one of them.
FOLDERS = ("ade20k", "coco", "custom", "llava_dataset", "multi_reason_seg", "reason_seg", "refer_seg")


def check_data_root(root: str | Path, flag: str) -> None:
    """Raises `UserError` for what is no directory, and for one whose data sets lie in a folder of it."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{flag} {root}: no such directory; name the folder that holds the data sets")
    if not _holds_sets(root):
        inner = next((path for path in sorted(root.iterdir()) if path.is_dir() and _holds_sets(path)), None)
        if inner is not None:
            raise UserError(f"{flag} {root}: there are no data sets, but {inner} has some: {flag} {inner}")


def _holds_sets(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in FOLDERS)
