"""How a family says what its data sets need on disk, and how their content is checked (`data_checks.py` reports it)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataloaders.downloads import Source
from groundscore.annotations.bad_entries import BadEntry, BadSamples, Repair, Tolerance, noting_repairs
from groundscore.annotations.images import list_images
from groundscore.errors import UserError
from groundscore.names import files_like
from groundscore.reading import MISSING, check_regular, what_it_is

NAMED = 3  # of files that are missing, say
# How images begin whose format keeps every number, as masks and label maps need: PNG, BMP, GIF, TIFF.
LOSSLESS_STARTS = (b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Entry:
    """An image of a set. draw: the steps that read it and draw its masks, each by itself for its errors and repairs."""

    path: Path
    draw: tuple[Callable[[], object], ...]


class Findings(BadSamples):
    """Notes everything odd about a set, whatever the share of bad entries.

    bad: entries without a usable image or mask. broken: files that are not built as they should be. incomplete: files
    that are missing. notes: what is odd, yet in order. repairs: as the keys of a dictionary.
    """

    def __init__(self):
        super().__init__(Tolerance(0.5))
        self.bad: list[str] = []
        self.broken: list[str] = []
        self.incomplete: list[str] = []
        self.notes: list[str] = []
        self.repairs: dict[Repair, None] = {}

    def note_error(self, error: UserError) -> None:
        """Note an error of an entry or a file."""
        (self.bad if isinstance(error, BadEntry) else self.broken).append(str(error))

    def note_incomplete(self, what: str, lacking: Sequence[Path], total: int) -> None:
        """Note that `what` is true of the files `lacking`, of `total`."""
        if lacking:
            self.incomplete.append(_count(what, lacking, total))

    def note_unused(self, what: str, unused: Sequence[Path], total: int) -> None:
        """The same of files that need not be used, as in the folder of another set."""
        if unused:
            self.notes.append(_count(what, unused, total))

    def note_unlisted(self, listed: Collection[Path], what: str) -> None:
        """Note the images that lie beside `listed`, and are none of them."""
        for folder in sorted({path.parent for path in listed}):
            present = [folder / name for name in sorted(list_images(folder).values())] if folder.is_dir() else []
            self.note_unused(what, [path for path in present if path not in listed], len(present))

    def look_at(self, path: Path, starts: tuple[bytes, ...] = (b"",)) -> None:
        """Note a file whose first bytes are known to be something else's, or none of `starts`."""
        try:
            check_regular(path, missing=MISSING)
        except UserError as error:
            self.broken.append(str(error))
            return
        with path.open("rb") as file:
            begin = file.read(64)
        other = what_it_is(begin)
        if other is None and not begin.startswith(starts):
            other = "is no PNG file; masks and label maps are PNG, since JPEG and its like change their numbers"
        if other is not None:
            self.broken.append(f"{path} {other}")

    def skip_entries(self, source: str, problems: Sequence[str], good: int) -> None:
        """Note the bad entries of an annotation file, however many."""
        self.bad += problems

    def check_entries(self, split: str, entries: Sequence[Entry], *, decode: bool) -> None:
        """Look for the images of a split; with `decode` read all that are there and draw their masks."""
        paths = list(dict.fromkeys(entry.path for entry in entries))
        missing = {path for path in paths if path.name not in names_in(path.parent)}
        if missing:
            lacking = [path for path in paths if path in missing]
            self.incomplete.append(f"{split}: {_count('images are missing', lacking, len(paths))}")
        if not decode:
            for path in sorted(set(paths) - missing):
                self.look_at(path)
            return
        for step in (step for entry in entries if entry.path not in missing for step in entry.draw):
            try:
                with noting_repairs() as repairs:
                    step()
            except UserError as error:
                self.note_error(error)
            self.repairs |= repairs


Reader = Callable[[Findings], Iterator[tuple[str, Sequence[Entry]]]]


@dataclass(frozen=True)
class KnownSet:
    """A data set, there or not.

    own: files and folders that it needs. shared: those that others need as well, so that their being there says nothing
        about this one.
    origin: where a user gets the files. remedy: what to do about a faulty file, "download it again: <origin>" if empty.
    read: yields (split, entries) and notes what is wrong; called where everything is there.
    sources: which download each file and folder comes from, for `python -m dataloaders.prepare`.
    """

    name: str
    own: Sequence[Path]
    origin: str
    read: Reader
    shared: Sequence[Path] = ()
    remedy: str = ""
    sources: Sequence[Source] = ()


@cache
def names_in(folder: Path) -> frozenset[str]:
    """Returns the names in a folder, none if it is not there: one look instead of one for each file of a large set."""
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def require_file(path: Path) -> None:
    """Raises `UserError` where an annotation file is not there, and says which one of that folder may be meant."""
    check_regular(path, missing=f"{MISSING}{files_like(path)}")


def _count(what: str, paths: Sequence[Path], total: int) -> str:
    names = ", ".join(map(str, paths[:NAMED]))
    return f"{len(paths)} of {total} {what}: {names}{', …' if len(paths) > NAMED else ''}"
