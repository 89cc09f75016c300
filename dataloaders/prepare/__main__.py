"""From nothing to data in place.

    python -m dataloaders.prepare plan --recipe 7b_refer_seg/uground_llava1.5_ema     what is there, missing, its terms
    python -m dataloaders.prepare fetch --sets refcoco,ade20k                         download, or take from --from DIR
    python -m dataloaders.prepare unpack --sets refcoco,ade20k                        archives into the layout
    python -m dataloaders.prepare link /data/coco /data/ADEChallengeData2016          your own copies, by links
    python -m dataloaders.prepare verify --sets refcoco,ade20k                        digests, counts, names, areas

Every command may be repeated or killed: it does what is missing. Without --sets or --recipe it is about all sets.
"""

import argparse
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from dataloaders.downloads import Download, Fact, Source
from dataloaders.prepare.choosing import DOWNLOADS, Wanted, choose_sets, downloads_of, files_of
from dataloaders.prepare.fetching import Options, fetch
from dataloaders.prepare.linking import link
from dataloaders.prepare.unpacking import unpack
from dataloaders.prepare.verifying import verify
from groundscore.errors import UserError, printable, run_main
from groundscore.flags import PageHelp, positive
from utils.plugins import HELP, import_plugins

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}


def build_parser() -> argparse.ArgumentParser:
    """Returns the command line of `python -m dataloaders.prepare`."""
    parser = argparse.ArgumentParser(
        prog="python -m dataloaders.prepare", description=__doc__, formatter_class=PageHelp
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dataset_dir", default="./dataset", type=Path, metavar="DIR", help="root of all data sets")
    common.add_argument("--sets", default="", metavar="NAMES", help="sets or families, joined by commas (default: all)")
    common.add_argument(
        "--recipe", default="", metavar="NAME", help="the sets of a recipe, or of a YAML file of settings"
    )
    common.add_argument(
        "--downloads", type=Path, metavar="DIR", help=f"where downloads are (default: DATASET_DIR/{DOWNLOADS})"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--plugin", metavar="NAMES", help=HELP)
    commands = parser.add_subparsers(dest="command", required=True, metavar="plan|fetch|unpack|link|verify")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[common], help=text, description=text)

    command("plan", "what is there and what is missing, with sizes, licences and where it comes from")
    get = command("fetch", "download what is missing, going on where it broke off")
    get.add_argument(
        "--from", dest="copies", type=Path, metavar="DIR", help="take the files from below a folder instead"
    )
    get.add_argument("--copy", action="store_true", help="with --from: copy the files instead of linking to them")
    get.add_argument("--mirror", default="", metavar="URL", help="an address below which all files lie by their names")
    get.add_argument("--jobs", type=positive, default=4, metavar="N", help="downloads at a time (default: 4)")
    get.add_argument("--rate", type=_rate, metavar="BYTES", help="most bytes per second in all, such as 500K or 20M")
    get.add_argument("--timeout", type=positive, default=30, metavar="S", help="seconds without a byte (default: 30)")
    get.add_argument(
        "--retries", type=positive, default=5, metavar="N", help="attempts that bring nothing (default: 5)"
    )
    get.add_argument(
        "--unchecked", action="store_true", help="take files whose size or digest is not the published one"
    )
    command("unpack", "put the content of the downloads where it belongs")
    own = command("link", "use your own copies, wherever they lie, by symbolic links; nothing is written into them")
    own.add_argument("places", nargs="+", type=Path, metavar="DIR", help="folders in which they lie, at any depth")
    own.add_argument("--copy", action="store_true", help="copy them instead")
    check = command("verify", "compare digests, counts, names, and areas of masks with what is published")
    check.add_argument("--no_digests", action="store_true", help="do not read the downloads, which takes minutes")
    return parser


def _rate(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text.upper())
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of bytes such as 500K or 20M")
    return float(match[1]) * _UNITS[match[2]]


def main(argv: Sequence[str]) -> int:
    """Runs a command; returns 1 where something is still missing or wrong after it."""
    import_plugins(argv)
    flags = build_parser().parse_args(argv)
    if flags.sets and flags.recipe:
        raise UserError("--sets and --recipe exclude each other; give one of them")
    root: Path = flags.dataset_dir.absolute()
    folder = flags.downloads.absolute() if flags.downloads else root / DOWNLOADS
    sets = choose_sets(root, names=flags.sets, recipe=flags.recipe)
    about = next((f" --{name} '{getattr(flags, name)}'" for name in ("sets", "recipe") if getattr(flags, name)), "")
    return {"plan": _plan, "fetch": _fetch, "unpack": _unpack, "link": _link, "verify": _verify}[flags.command](
        flags, sets, root, folder, about
    )


def _say(line: str) -> None:
    print(printable(line), flush=True)


# --- plan -------------------------------------------------------------------------------------------------------------


def _plan(flags: argparse.Namespace, sets: Sequence[Wanted], root: Path, folder: Path, about: str) -> int:
    for one in sets:
        missing = _paths(one.lacking, root)
        _say(f"{'missing' if missing else 'present':8} {one.family}/{one.known.name}")
        for path in missing:
            _say(f"           {path}")
    needed = downloads_of(sets)
    lacking = {source.path for one in sets for source in one.lacking}
    needed = {download: sources for download, sources in needed.items() if any(s.path in lacking for s in sources)}
    if not needed:
        _say("\neverything is there; python -m dataloaders.inspect looks into it")
        return 0
    _say(
        "\nDownloads that are needed (what is said of them was seen where it says so, and not checked by downloading):"
    )
    to_fetch, unknown = 0, 0
    for download, sources in needed.items():
        have = files_of(download, folder)
        part = folder / f".{download.file}.part"
        state = "have" if have else f"{part.stat().st_size / 1e6:.0f} MB so far" if part.exists() else "to fetch"
        if not have and download.url is None:
            state = "by hand"
        _say(f"\n{download.file}  [{state}]  {download.title}")
        _say(f"  size     {_size(download.size)}")
        _say(f"  licence  {download.licence.value} ({download.licence.source})")
        if download.url is not None:
            _say(f"  from     {download.url.value} ({download.url.source})")
        _say(f"  page     {download.page.value} ({download.page.source})")
        if download.clicks:
            _say(f"  do       {download.clicks}; put it in {folder}")
        _say(f"  fills    {', '.join(_paths([source for source in sources if source.path in lacking], root))}")
        if not have:
            to_fetch += int(download.size.value) if download.size else 0
            unknown += download.size is None
    place = next(path for path in (folder, *folder.parents) if path.exists())
    more = f", and {unknown} files of unknown size" if unknown else ""
    _say(f"\nto fetch: {to_fetch / 1e9:.1f} GB{more}; free: {shutil.disk_usage(place).free / 1e9:.1f} GB in {place}")
    where = "" if root == Path("dataset").absolute() else f" --dataset_dir {flags.dataset_dir}"
    where += f" --downloads {flags.downloads}" if flags.downloads else ""
    for command in ("fetch", "unpack"):
        _say(f"next: python -m dataloaders.prepare {command}{where}{about}")
    _say("      (or `link DIR …` for copies that you have, or `fetch --from DIR` for downloads that you have)")
    return 1


def _paths(sources: Iterable[Source], root: Path) -> list[str]:
    """Returns the paths from the data folder on, one of those of which either serves."""
    seen: dict[Path, None] = {}
    for source in sources:
        if source.instead not in seen:
            seen[source.path] = None
    return [path.relative_to(root).as_posix() for path in seen]


def _size(size: Fact | None) -> str:
    if size is None:
        return "not known"
    about = "" if size.exact else "about "
    return f"{about}{int(size.value) / 1e9:.2f} GB ({size.source})"


# --- the steps --------------------------------------------------------------------------------------------------------


def _fetch(flags: argparse.Namespace, sets: Sequence[Wanted], root: Path, folder: Path, about: str) -> int:
    if flags.copies is not None and not flags.copies.is_dir():
        raise UserError(f"--from {flags.copies}: no such folder")
    options = Options(
        mirror=flags.mirror,
        copies=flags.copies,
        copy=flags.copy,
        jobs=flags.jobs,
        rate=flags.rate,
        timeout=flags.timeout,
        retries=flags.retries,
        unchecked=flags.unchecked,
    )
    lacking = {source.path for one in sets for source in one.lacking}
    needed = [d for d, sources in downloads_of(sets).items() if any(source.path in lacking for source in sources)]
    result = fetch(needed, folder, options, _say)
    for download in result.manual:
        how = download.clicks or "not among the files there"
        _say(f"by hand  {download.file}  {download.page.value}: {how}; put it in {folder}")
    _say(f"{len(result.done)} downloads are in {folder}, {len(result.failed)} failed, {len(result.manual)} are missing")
    return 1 if result.failed or result.manual else 0


def _unpack(flags: argparse.Namespace, sets: Sequence[Wanted], root: Path, folder: Path, about: str) -> int:
    failed = False
    for download, sources in downloads_of(sets).items():
        if not files_of(download, folder):
            continue
        try:
            done = unpack(download, sources, root, folder, _say)
        except UserError as error:
            failed = True
            _say(f"failed   {error}")
            continue
        other = f", {done.other} left as they are (other content, or a link of yours)" if done.other else ""
        _say(f"unpacked {download.file}: {done.written} files written, {done.there} there{other}")
    missing = {f"{one.family}/{one.known.name}": _lacking(one, root) for one in sets if one.lacking}
    for name, paths in missing.items():
        _say(f"missing  {name}: {paths}")
    _say(f"{len(sets) - len(missing)} of {len(sets)} sets are in place")
    _say(f"next: python -m dataloaders.inspect --dataset_dir {flags.dataset_dir}")
    return 1 if failed or missing else 0


def _lacking(one: Wanted, root: Path) -> str:
    downloads: dict[Download, list[Source]] = {}
    for source in one.lacking:
        downloads.setdefault(source.download, []).append(source)
    return "; ".join(
        f"{', '.join(_paths(sources, root))} of {download.file}" for download, sources in downloads.items()
    )


def _link(flags: argparse.Namespace, sets: Sequence[Wanted], root: Path, folder: Path, about: str) -> int:
    sources = [source for same in downloads_of(sets).values() for source in same]
    count = link(sources, root, flags.places, copy=flags.copy, say=_say)
    lacking = [one for one in sets if one.lacking]
    _say(
        f"{count} paths {'copied' if flags.copy else 'linked'}; "
        f"{len(sets) - len(lacking)} of {len(sets)} sets are in place"
    )
    return 0 if count or not lacking else 1


def _verify(flags: argparse.Namespace, sets: Sequence[Wanted], root: Path, folder: Path, about: str) -> int:
    wrong = 0
    for is_right, line in verify(sets, root, folder, digests=not flags.no_digests):
        _say(f"{'right' if is_right else 'WRONG':8} {line}")
        wrong += not is_right
    there = sum(not one.lacking for one in sets)
    _say(f"{there} of {len(sets)} sets are there; {wrong} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    run_main(main)
