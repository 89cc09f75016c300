"""Downloads over HTTP that go on where they broke off, and copies from a folder.

A file that is under way is `.NAME.part`, with what identifies the server's version of it in `.NAME.part.json`; it gets
its name when its size, its first bytes and its digest are right.
"""

import hashlib
import http.client
import os
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dataloaders.downloads import Download
from dataloaders.prepare.choosing import files_of
from groundscore.errors import UserError
from groundscore.progress import ProgressBar
from groundscore.reading import read_json, what_it_is
from groundscore.writing import make_directory, write_json

CHUNK = 1 << 18
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_AGENT = {"User-Agent": "uground-prepare"}


class WrongFile(UserError):
    """What came is not the file that was asked for; asking again would not help."""


@dataclass(frozen=True)
class Options:
    """How files are fetched.

    mirror: an address below which all files lie under their own names, "" for the official addresses.
    copies: a folder with files that are there already; copy: copy them, instead of linking to them.
    jobs: downloads at a time. rate: bytes per second of all together, None without a limit.
    timeout: seconds without a byte after which a connection is given up. retries: attempts in a row that bring nothing.
    pause: seconds before the second attempt, doubled for each further one.
    unchecked: take files whose size or digest is not the published one.
    """

    mirror: str = ""
    copies: Path | None = None
    copy: bool = False
    jobs: int = 4
    rate: float | None = None
    timeout: float = 30.0
    retries: int = 5
    pause: float = 1.0
    unchecked: bool = False


@dataclass
class Fetched:
    """What became of the downloads. failed: with the reason. manual: those that nobody but a person can get."""

    done: list[Download] = field(default_factory=list)
    failed: dict[Download, str] = field(default_factory=dict)
    manual: list[Download] = field(default_factory=list)


class RateLimit:
    """Lets threads together take so many bytes a second."""

    def __init__(self, rate: float | None):
        self.rate, self._lock, self._free_at = rate, threading.Lock(), 0.0

    def take(self, count: int) -> None:
        """Wait until `count` more bytes are within the rate."""
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + count / self.rate
        time.sleep(max(0.0, begin - now))


class _Progress:
    """One bar of bytes for all downloads."""

    def __init__(self, downloads: Sequence[Download]):
        self._bar = ProgressBar("fetch", shown=_megabytes)
        self._lock = threading.Lock()
        self._done = dict.fromkeys(downloads, 0)
        self._total = {one: int(one.size.value) if one.size else 0 for one in downloads}

    def show(self, download: Download, done: int, total: int | None) -> None:
        with self._lock:
            self._done[download] = done
            self._total[download] = max(total or self._total[download], done)
            total = sum(self._total.values())
            if total:
                self._bar.show(sum(self._done.values()), total)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def fetch(downloads: Iterable[Download], folder: Path, options: Options, say: Callable[[str], None] = print) -> Fetched:
    """Bring the downloads that are not in `folder` there; says a line for each. Returns what became of them."""
    make_directory(folder)
    result = Fetched()
    wanted = []
    for download in downloads:
        try:
            here = bool(files_of(download, folder))
            taken = not here and options.copies is not None and _take_copies(download, folder, options)
        except (UserError, OSError) as error:
            result.failed[download] = str(error)
            say(f"failed   {download.file}  {error}")
            continue
        if here:
            result.done.append(download)
            say(f"have     {download.file}")
        elif taken:
            result.done.append(download)
            say(f"{'copied' if options.copy else 'linked'}   {download.file}  from {options.copies}")
        elif (address := _address(download, options)) is None:
            result.manual.append(download)
        else:
            wanted.append((download, address))
    progress, rate = _Progress([download for download, _ in wanted]), RateLimit(options.rate)
    stop = threading.Event()

    def get(pair: tuple[Download, str]) -> None:
        download, address = pair
        try:
            _get(download, address, folder, options, rate, progress, stop)
        except (UserError, OSError) as error:
            result.failed[download] = str(error)
            say(f"failed   {download.file}  {error}")
        else:
            result.done.append(download)
            say(f"fetched  {download.file}")

    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        try:
            list(pool.map(get, wanted))
        except BaseException:  # Ctrl-C: the threads end at their next chunk, and what they have stays
            stop.set()
            raise
    return result


def _address(download: Download, options: Options) -> str | None:
    if options.mirror:
        return f"{options.mirror.rstrip('/')}/{urllib.parse.quote(download.file)}"
    return None if download.url is None or options.copies is not None else str(download.url.value)


# --- copies -----------------------------------------------------------------------------------------------------------


def _take_copies(download: Download, folder: Path, options: Options) -> bool:
    """Link to, or copy, the files of a download that lie anywhere below `options.copies`; whether there are any."""
    found = {}
    for directory, _, names in os.walk(options.copies, followlinks=False):
        for name in names:
            if download.is_named(name) and not name.startswith("."):
                found.setdefault(name, Path(directory, name))
    if download.file in found:
        found = {download.file: found[download.file]}
    for name, path in found.items():
        if not options.unchecked and (name == download.file or len(found) == 1):
            check_file(download, path)
        target = folder / name
        if target.is_symlink() or target.exists():
            continue
        if options.copy:
            part = folder / f".{name}.part"
            shutil.copyfile(path, part)
            part.replace(target)
        else:
            target.symlink_to(path.resolve())
    return bool(found)


# --- HTTP -------------------------------------------------------------------------------------------------------------


def _get(
    download: Download,
    address: str,
    folder: Path,
    options: Options,
    rate: RateLimit,
    progress: _Progress,
    stop: threading.Event,
) -> None:
    """Fetch one file, however often the connection breaks; `UserError` after `options.retries` attempts in vain."""
    part = folder / f".{download.file}.part"
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            for done, total in _receive(download, address, part, options, rate):
                progress.show(download, done, total)
                if stop.is_set():
                    raise UserError("interrupted; the same command goes on")
            break
        except WrongFile:
            _discard(part)
            raise
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410):
                raise UserError(
                    f"{address} answers {error.code} ({error.reason}); get it at {download.page.value}, and put it in "
                    f"{folder} as {download.file}"
                ) from error
            failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
            if failures > options.retries:
                reason = getattr(error, "reason", None) or error
                raise UserError(
                    f"{address} cannot be fetched ({reason}); the same command goes on later, or get it at "
                    f"{download.page.value}, and put it in {folder} as {download.file}"
                ) from error
            time.sleep(options.pause * 2 ** max(0, failures - 1))
    if not options.unchecked:
        try:
            check_file(download, part, name=download.file)
        except WrongFile as error:
            _discard(part)
            raise WrongFile(f"{address}: {error}") from error
    part.replace(folder / download.file)
    _discard(part)


def _receive(
    download: Download, address: str, part: Path, options: Options, rate: RateLimit
) -> Iterator[tuple[int, int | None]]:
    """Receive what `part` does not have yet; yields (bytes there, bytes in all, if the server says).

    Ends when all is there; raises `OSError` where the connection ends before, `WrongFile` where something else comes.
    """
    have = part.stat().st_size if part.exists() else 0
    version = _recorded(part) if have else {}
    headers = dict(_AGENT)
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.get("validator"):
            headers["If-Range"] = version["validator"]
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise WrongFile(f"{address} is no http or https address")
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=options.timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left, or the file is shorter now
            if version.get("total") == have:
                return
            _discard(part)
            raise OSError("the file on the server is another one than before") from error
        raise
    with response:
        goes_on = response.status == 206 and have > 0
        have = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        _check_total(download, total, options)
        # Only a strong tag or a date can say whether the file is still the same one.
        tag = response.headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
        write_json(_record_of(part), {"validator": validator, "total": total})
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := response.read1(CHUNK):  # `read` would wait for a whole one, and lose it in a stall
                if have == 0:
                    _check_start(download, chunk)
                file.write(chunk)
                have += len(chunk)
                yield have, total
                rate.take(len(chunk))
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _check_total(download: Download, total: int | None, options: Options) -> None:
    size = download.size
    if total is None or size is None or options.unchecked or not size.exact or total == size.value:
        return
    raise WrongFile(
        f"the server's {download.file} has {total} bytes, the official one {size.value} ({size.source}); "
        "--unchecked takes it nevertheless"
    )


def _check_start(download: Download, start: bytes) -> None:
    other = what_it_is(start[:64])
    is_archive = download.file.endswith(ARCHIVES)
    if other is not None and ("web page" in other or not is_archive):
        raise WrongFile(f"what comes as {download.file} {other}")


def check_file(download: Download, path: Path, *, name: str = "") -> None:
    """Raises `WrongFile` where a file is not the download: by its size, its first bytes, or its digest."""
    name = name or str(path)
    with path.open("rb") as file:
        _check_start(download, file.read(64))
    size = path.stat().st_size
    if download.size is not None and download.size.exact and size != download.size.value:
        raise WrongFile(
            f"{name} has {size} bytes, the official file {download.size.value} ({download.size.source}); "
            "download it again, or take it nevertheless with --unchecked"
        )
    if download.digests:
        kind = str(download.digests[0].value).partition(":")[0]
        found = f"{kind}:{file_digest(path, kind)}"
        if all(found != digest.value for digest in download.digests):
            published = ", ".join(f"{digest.value} ({digest.source})" for digest in download.digests)
            raise WrongFile(
                f"{name} has the digest {found}, the official file {published}; download it again, or take it "
                "nevertheless with --unchecked"
            )


def file_digest(path: Path, kind: str) -> str:
    """Returns the digest of a file in hexadecimal. kind: "sha256", "sha1" or "md5"."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _record_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _recorded(part: Path) -> Mapping[str, object]:
    try:
        value = read_json(_record_of(part))
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def _discard(part: Path) -> None:
    for path in (part, _record_of(part)):
        path.unlink(missing_ok=True)
