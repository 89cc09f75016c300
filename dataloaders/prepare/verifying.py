"""Is what lies there what the owners published? Digests, counts, names, and masks against areas that files state."""

import random
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dataloaders.data_checks import check_data
from dataloaders.downloads import Download, Fact, Source
from dataloaders.known_sets import names_in
from dataloaders.prepare.choosing import Wanted, downloads_of, files_of
from dataloaders.prepare.fetching import WrongFile, check_file
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError
from groundscore.progress import ProgressBar
from groundscore.reading import read_json

SAMPLE = 50  # masks of a file
_BAD_SHARE = 0.1  # of them that may have another area: polygons are drawn in more than one way


def verify(sets: Sequence[Wanted], root: Path, folder: Path, *, digests: bool = True) -> Iterator[tuple[bool, str]]:
    """Yields (is right, a line) for everything there is to compare; `digests` of the downloads take minutes."""
    sources = downloads_of(sets)
    if digests:
        yield from _check_downloads(sources, folder)
    counted: set[Path] = set()
    for source in (source for same in sources.values() for source in same):
        if source.count is not None and source.path.is_dir() and source.path not in counted:
            counted.add(source.path)
            yield _check_count(source, source.count, root)
    chosen = {(one.family, one.known.name) for one in sets}
    for report in check_data(root):
        if (report.family, report.name) in chosen and report.state != "missing":
            problem = report.problems[0].text if report.problems else ""
            more = (
                f", and {len(report.problems) - 1} more; dataloaders.inspect lists them" if report.problems[1:] else ""
            )
            counts = ", ".join(f"{split} {count}" for split, count in report.counts.items())
            yield not problem, f"{report.family}/{report.name}: {problem + more if problem else counts}"
    files = {source.path for one in sets for source in one.known.sources if source.path.suffix == ".json"}
    for path in sorted(path for path in files if path.is_file()):
        yield from _check_areas(path, root)


def _check_downloads(sources: Mapping[Download, Sequence[Source]], folder: Path) -> Iterator[tuple[bool, str]]:
    there = [(download, path) for download in sources for path in files_of(download, folder)]
    bar = ProgressBar("digests")
    bar.show(0, len(there) or 1)
    for number, (download, path) in enumerate(there, start=1):
        try:
            check_file(download, path)
        except WrongFile as error:
            yield False, str(error)
        else:
            known = [fact for fact in (*download.digests, download.size) if fact is not None and fact.exact]
            yield (
                True,
                f"{path.name}: {known[0].value} ({known[0].source})"
                if known
                else (f"{path.name}: there, and nothing is published to compare it with"),
            )
        bar.show(number, len(there))


def _check_count(source: Source, count: Fact, root: Path) -> tuple[bool, str]:
    last = source.inside.rpartition("/")[2].lower()
    if last == "**":
        found = sum(path.suffix.lower() == ".jpg" for path in source.path.rglob("*"))
    else:
        found = sum(fnmatchcase(name.lower(), last) for name in names_in(source.path))
    line = f"{source.path.relative_to(root)}: {found} files"
    if found == count.value:
        return True, f"{line}, as published ({count.source})"
    return False, f"{line}; the official set has {count.value} ({count.source})"


def _check_areas(path: Path, root: Path) -> Iterator[tuple[bool, str]]:
    """Draws a sample of the masks of a COCO file whose annotations state their areas."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return
    images = {image["id"]: image for image in content.get("images", []) if isinstance(image, dict) and "id" in image}
    stated = [one for one in content["annotations"] if _has_area(one, images)]
    if not stated:
        return
    chosen = random.Random(0).sample(stated, min(SAMPLE, len(stated)))
    wrong = [one for one in chosen if not _fits(one, images[one["image_id"]], path)]
    line = f"{path.relative_to(root)}: {len(chosen) - len(wrong)} of {len(chosen)} masks have the area that is stated"
    if len(wrong) > _BAD_SHARE * len(chosen):
        yield False, f"{line}; not so annotation {wrong[0].get('id')}"
    else:
        yield True, line


def _has_area(one: Any, images: Mapping[Any, Any]) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("area"), int | float)
        and bool(one.get("segmentation"))
        and isinstance(one.get("image_id"), int)
        and one["image_id"] in images
    )


def _fits(one: Mapping[str, Any], image: Mapping[str, Any], path: Path) -> bool:
    try:
        drawn = decode_segmentation(one["segmentation"], int(image["height"]), int(image["width"]), str(path)).sum()
    except (UserError, KeyError, ValueError):
        return False
    # A polygon's area and its pixels differ by about half its outline, which goes with the root of the area.
    return abs(float(drawn) - one["area"]) <= 0.05 * one["area"] + 4 * one["area"] ** 0.5 + 4
