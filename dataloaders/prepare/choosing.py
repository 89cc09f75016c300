"""Which sets are wanted, which of their files are there, and which downloads they come from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dataloaders.downloads import Download, Source
from dataloaders.families import FAMILIES
from dataloaders.known_sets import KnownSet
from dataloaders.settings import declared_data
from groundscore.errors import UserError
from groundscore.names import did_you_mean, split_names
from groundscore.reading import read_bytes
from groundscore.splits.opening import TWO_PART_SETS
from utils.recipes import find_recipe
from utils.settings import settings_of

DOWNLOADS = "downloads"  # folder of the data folder where downloads are kept


@dataclass(frozen=True)
class Wanted:
    """A data set that is asked for. family: its name."""

    family: str
    known: KnownSet

    @property
    def lacking(self) -> list[Source]:
        """Returns the sources of the files and folders that it needs and that are not there."""
        return [source for source in self.known.sources if not source.is_there]


def official_sets(root: Path) -> list[Wanted]:
    """Returns all sets that somebody offers for download."""
    return [
        Wanted(family.name, known) for family in FAMILIES.values() for known in family.known_sets(root) if known.sources
    ]


def choose_sets(root: Path, *, names: str = "", recipe: str = "") -> list[Wanted]:
    """Returns the sets that are named, those of a recipe, or all.

    names: of sets or whole families, joined by commas or "||". recipe: its name, or the path of a YAML file. Raises
    `UserError` for unknown names.
    """
    sets = official_sets(root)
    if recipe:
        wanted = _recipe_names(recipe, sets)
        return [one for one in sets if (one.family, one.known.name) in wanted]
    if not names:
        return sets
    chosen: dict[tuple[str, str], Wanted] = {}
    for name in (part.strip() for joined in split_names(names) for part in joined.split(",") if part.strip()):
        plain = name.rpartition("/")[2]
        found = [one for one in sets if plain in (one.family, one.known.name, one.known.name.partition("|")[0])]
        found = [
            one for one in found if plain != one.known.name.partition("|")[0] or not _is_second(one, sets)
        ] or found
        if not found:
            known = [*FAMILIES, *(one.known.name for one in sets)]
            raise UserError(f"--sets: no data set {name!r}; `plan` lists them all{did_you_mean(name, known)}")
        chosen |= {(one.family, one.known.name): one for one in found}
    return list(chosen.values())


def _is_second(one: Wanted, sets: Sequence[Wanted]) -> bool:
    """Whether a set such as "refcoco|val" is a version of another, "refcoco", and so has to be named in full."""
    name, bar, _ = one.known.name.partition("|")
    return bool(bar) and any(other.known.name == name for other in sets)


def _recipe_names(recipe: str, sets: Sequence[Wanted]) -> set[tuple[str, str]]:
    """Returns (family, set) of what a recipe trains and evaluates on."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) and Path(recipe).exists() else find_recipe(recipe)
    try:
        values = yaml.safe_load(read_bytes(path, megabytes=1))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} has no settings; expected lines such as dataset: refer_seg")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    defaults = {name: setting.default for name, setting in settings_of(*declared_data()).items()}
    families = split_names(str(values.get("dataset", defaults["dataset"])))
    drawn = [one for name in families for one in _drawn_specs(name, {**defaults, **values})]
    names = {pair for family, spec in drawn for pair in _matching(spec, sets, family)}
    for spec in split_names(str(values.get("val_dataset", ""))):
        names |= set(_matching(spec, sets))
    return names


def _drawn_specs(family: str, settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yields (family, name of a set) of what a family draws from."""
    value = str(settings.get(f"{family}_data", ""))
    for name in split_names(value):
        base, bar, splits = name.partition("|")
        yield from ((family, f"{base}{bar}{split}") for split in splits.split("_"))


def _matching(spec: str, sets: Sequence[Wanted], family: str = "") -> Iterable[tuple[str, str]]:
    """Yields (family, set) of those that a name of `--<family>_data`, or of `--val_dataset` where there is no family,
    takes: "refcoco|unc|val" the set "refcoco", "ReasonSeg|test_overall" the set "ReasonSeg|test"."""
    name, *rest = (part.strip() for part in spec.split("|"))
    has_two_parts = len(rest) == 1 and name in TWO_PART_SETS
    if not has_two_parts:
        name = {"fpReasonSeg": "ReasonSeg"}.get(name, name.removeprefix("multi"))
    for one in sets:
        base, bar, split = one.known.name.partition("|")
        if base != name or family not in ("", one.family):
            continue
        if not bar:
            fits = not (has_two_parts and any(other.known.name == f"{name}|val" for other in sets))
        elif has_two_parts:
            fits = True
        else:
            fits = (
                bool(rest) and not _is_second(one, sets) and (rest[-1].startswith(split) or split.startswith(rest[-1]))
            )
        if fits:
            yield one.family, one.known.name


def downloads_of(sets: Iterable[Wanted]) -> dict[Download, list[Source]]:
    """Returns every download that has something for the sets, with all that it has for them, each path once."""
    found: dict[Download, dict[Path, Source]] = {}
    for one in sets:
        for source in one.known.sources:
            found.setdefault(source.download, {}).setdefault(source.path, source)
    return {download: list(sources.values()) for download, sources in found.items()}


def files_of(download: Download, folder: Path) -> list[Path]:
    """Returns the files in a folder that are this download: the one of its own name, or else those handed on under
    another."""
    own = folder / download.file
    if own.is_file():
        return [own]
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [folder / name for name in names if download.is_named(name) and not name.startswith(".")]


def is_linked(root: Path, path: Path) -> bool:
    """Whether a symbolic link stands between the data folder and a path in it, so that what is written there may go to
    the user's own copy."""
    below = path.relative_to(root)
    return any((root / part).is_symlink() for part in (below, *below.parents) if part != Path("."))
