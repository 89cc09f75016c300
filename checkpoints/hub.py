"""Models on the Hugging Face hub: their local copy, fetched once, whole, and by one process of those that want it.

    owner/name    owner/name/sub/folder    owner/name/file.pth    each with @revision if need be

Files go to the ordinary cache of `huggingface_hub`, each of them whole or not at all. That cache does not tell which
files of a model are still to come, so a note beside it names what was fetched and checked; a copy without one is
completed as long as the hub answers, and taken only if it has every file that its index names when it does not.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from checkpoints.digests import DIGESTS_FILE
from checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    BASE_FILE,
    CONFIG_FILE,
    SETTINGS_FILE,
    TRAINED_FILE,
    WEIGHT_LAYOUTS,
    shards_of_index,
    weight_files,
)
from dataloaders.batching.tokenization import TOKENIZER_FILES
from groundscore.errors import UserError, shown
from groundscore.progress import data_size
from groundscore.reading import read_json, user_path
from groundscore.writing import write_json

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger(__name__)

# What is read of a model besides its weights.
DESCRIPTIONS = (CONFIG_FILE, *TOKENIZER_FILES, SETTINGS_FILE, ADAPTER_CONFIG, BASE_FILE, DIGESTS_FILE)
_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?P<inside>(/[A-Za-z0-9_][\w.-]*)*)(@(?P<revision>[\w./-]+))?"
)
_SECONDS = 30  # that the hub may take to say what it has


@dataclass(frozen=True)
class HubName:
    """A model on the hub. inside: its folder or only file in the repository, "" for the root."""

    repository: str
    inside: str = ""
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> "HubName | None":
        """The model that `text` names; None if it does not look like a name on the hub."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        return cls(match["repository"], match["inside"].strip("/"), match["revision"] or cls.revision)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.repository, self.inside)))

    def file(self, name: str) -> str:
        """The path in the repository of a file of this model."""
        return f"{self.inside}/{name}" if self.inside else name

    @property
    def storage(self) -> Path:
        """The repository's directory in the cache."""
        from huggingface_hub import constants

        return user_path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"

    @property
    def note(self) -> Path:
        """The file that says what of this model was fetched."""
        return self.storage / "uground" / f"{quote(self.inside, safe='')}@{quote(self.revision, safe='')}.json"


def find_model(name: str | Path, flag: str) -> Path:
    """A local file or directory; for a model on the hub its local copy, fetched if need be.

    flag: what the user wrote `name` after, for the error.
    """
    path = user_path(name)
    try:
        is_here = path.exists()
    except (OSError, ValueError) as error:  # too long, NUL in it
        raise UserError(f"{flag} {shown(str(name))} is not a valid path: {error}") from error
    if is_here:
        return path
    hub_name = HubName.parse(str(name))
    is_path = hub_name is None or (hub_name.inside and path.parts and Path(path.parts[0]).is_dir())
    if is_path:
        raise UserError(f"{flag} {name}: no such file or directory")
    try:
        return local_copy(hub_name)
    except UserError as error:
        raise UserError(f"{flag} {name}: no such file or directory here, and {error}") from error.__cause__


def local_copy(name: HubName) -> Path:
    """The directory or file of a model in the cache; what is missing is fetched by one process while others wait."""
    copy = _noted_copy(name)
    if copy is not None:
        return copy
    with _one_process(name):
        return _noted_copy(name) or _fetch(name)


def _noted_copy(name: HubName) -> Path | None:
    """The copy that the note tells of, None unless every file of it is there in its size."""
    try:
        note = read_json(name.note, missing="nothing was noted")
        snapshot = name.storage / "snapshots" / note["commit"]
        sizes = {snapshot / file: size for file, size in note["files"].items()}
        whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no note, or none of ours: the hub is asked again
    return snapshot / name.inside if whole else None


@contextlib.contextmanager
def _one_process(name: HubName) -> Iterator[None]:
    """Only one process at a time inside the block; a lock is gone with its process."""
    try:
        name.note.parent.mkdir(parents=True, exist_ok=True)
        file = name.note.with_suffix(".lock").open("w")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise UserError(f"the cache {name.storage} cannot be written: {error.strerror}") from error
        yield  # a cache that is only read needs no lock
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("waiting for another process that downloads %s", name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(name: HubName) -> Path:
    """Fetch what the cache lacks, compare it with what the hub says of it, and leave a note."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name.repository, revision=name.revision, files_metadata=True, timeout=_SECONDS)
    except Exception as error:
        copy = _indexed_copy(name)
        if copy is None:
            raise UserError(_reason(error, name)) from error
        return copy
    listed = {sibling.rfilename: sibling for sibling in info.siblings or []}
    snapshot = name.storage / "snapshots" / info.sha
    if name.inside in listed:
        wanted = [name.inside]
    else:
        indices, described = _files_besides_weights(name, listed)
        _download(name, snapshot, {file: listed[file] for file in (*indices, *described)})
        wanted = [*indices, *described, *_weights(name, snapshot, indices, listed)]
    _download(name, snapshot, {file: listed[file] for file in wanted})
    sizes = {file: (snapshot / file).stat().st_size for file in wanted}
    with contextlib.suppress(PermissionError):  # a copy in a shared cache that others filled
        write_json(name.note, {"commit": info.sha, "files": sizes})
    return snapshot / name.inside


def _files_besides_weights(name: HubName, listed: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """The index of the weights, if they have one, and the descriptions that a repository has of a model."""
    described = [name.file(file) for file in DESCRIPTIONS if name.file(file) in listed]
    if name.file(ADAPTER_CONFIG) in listed:
        return [], described
    for index, single in WEIGHT_LAYOUTS:
        if name.file(index) in listed:
            return [name.file(index)], described
        if name.file(single) in listed:
            return [], described
    raise UserError(_nothing_there(name, listed))


def _nothing_there(name: HubName, listed: Iterable[str]) -> str:
    """Why a repository has no model where it was looked for, with the places where it may have one."""
    known = {file for layout in WEIGHT_LAYOUTS for file in layout}
    paths = [PurePosixPath(path) for path in listed]
    folders = sorted({str(path.parent) for path in paths if path.name in known} - {name.inside or "."})
    files = sorted(str(path) for path in paths if path.suffix in (".bin", ".pt", ".pth", ".safetensors"))
    places = folders or files
    there = ", ".join(f"{name.repository}/{place}" for place in places[:5]) if places else "none"
    return f"{name} on the hub contains no weights of a known name; what may be meant: {there}"


def _weights(name: HubName, snapshot: Path, indices: list[str], listed: Mapping[str, object]) -> list[str]:
    """The files of the weights, in the repository."""
    if name.file(ADAPTER_CONFIG) in listed:
        files = [name.file(file) for file in (ADAPTER_FILE, TRAINED_FILE)]
    elif indices:
        files = [name.file(file) for file in shards_of_index(snapshot / indices[0])]
    else:
        files = [next(name.file(single) for _, single in WEIGHT_LAYOUTS if name.file(single) in listed)]
    absent = [file for file in files if file not in listed]
    if absent:
        raise UserError(f"{name} is incomplete on the hub: it has no {', '.join(absent[:3])}; ask its authors")
    return files


def _indexed_copy(name: HubName) -> Path | None:
    """A copy in the cache that another program fetched: None unless it has all files that its index names."""
    from huggingface_hub import try_to_load_from_cache

    for anchor in (CONFIG_FILE, *(file for layout in WEIGHT_LAYOUTS for file in layout)):
        found = try_to_load_from_cache(name.repository, name.file(anchor), revision=name.revision)
        if isinstance(found, str):
            directory = Path(found).parent
            is_adapter = (directory / ADAPTER_CONFIG).is_file()
            try:
                files = [directory / ADAPTER_FILE, directory / TRAINED_FILE] if is_adapter else weight_files(directory)
            except UserError:
                return None
            return directory if all(file.is_file() for file in files) else None
    found = try_to_load_from_cache(name.repository, name.inside, revision=name.revision) if name.inside else None
    return Path(found) if isinstance(found, str) else None


def _download(name: HubName, snapshot: Path, files: "Mapping[str, RepoSibling]") -> None:
    """Fetch those files that the cache lacks. One that is not what the hub lists is fetched once more."""
    from huggingface_hub import snapshot_download

    for attempt in range(2):
        _check_room(name, sum(item.size or 0 for file, item in files.items() if not (snapshot / file).is_file()))
        try:
            found = snapshot_download(
                name.repository, revision=name.revision, allow_patterns=[escape(file) for file in files]
            )
        except Exception as error:
            raise UserError(_reason(error, name)) from error
        if Path(found).name != snapshot.name:
            raise UserError(f"{name} was changed on the hub during the download; start again")
        wrong = [file for file, item in files.items() if not _is_as_listed(snapshot / file, item)]
        if not wrong:
            return
        log.warning(
            "%s of %s is not what the hub lists%s", wrong[0], name, "; downloaded again" if attempt == 0 else ""
        )
        for file in wrong:
            (snapshot / file).resolve().unlink(missing_ok=True)
            (snapshot / file).unlink(missing_ok=True)
    raise UserError(
        f"{wrong[0]} of {name} arrived twice with other bytes than the hub lists; is a proxy between (HF_ENDPOINT)? "
        "Start again, or give the path of a local copy"
    )


def _is_as_listed(path: Path, listed: "RepoSibling") -> bool:
    """Whether a file has the size and the digest that the hub lists: SHA-256 of large files, Git's of others."""
    if listed.size is not None and path.stat().st_size != listed.size:
        return False
    with path.open("rb") as file:
        if listed.lfs is not None:
            return hashlib.file_digest(file, "sha256").hexdigest() == listed.lfs.sha256
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        return listed.blob_id is None or hashlib.file_digest(file, lambda: digest).hexdigest() == listed.blob_id


def _check_room(name: HubName, size: int) -> None:
    free = shutil.disk_usage(next(path for path in (name.storage, *name.storage.parents) if path.exists())).free
    if size > free:
        raise UserError(
            f"its missing files take {data_size(size)}, and {name.storage.parent} has room for "
            f"{data_size(free)}; free some space, or set HF_HOME to another disk"
        )


def _reason(error: Exception, name: HubName) -> str:
    """What went wrong between here and the hub, in one line with what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    kinds = {kind for cause in causes for kind in type(cause).__mro__}
    status = next((cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    copy = "or give the path of a local copy"
    if OfflineModeIsEnabled in kinds:
        return f"HF_HUB_OFFLINE is set while the cache has no complete copy of {name}; unset it, {copy}"
    if GatedRepoError in kinds:
        return f"{name} is gated: accept its terms on {constants.ENDPOINT}/{name.repository}, then `hf auth login`"
    if DisabledRepoError in kinds:
        return f"{name} was disabled by the hub; give the path of a local copy"
    if RevisionNotFoundError in kinds:
        return f"{name.repository} on the hub has no revision {name.revision}"
    if RepositoryNotFoundError in kinds or status in (401, 403, 404):
        return f"the hub shows no {name.repository}: check the name; if it is private, `hf auth login` first"
    if status is not None:
        return f"the hub answered with status {status}: try again later, {copy}"
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return f"{name.storage.parent} is full; free some space, or set HF_HOME to another disk. What arrived is kept"
    first = (str(causes[-1]).strip() or type(causes[-1]).__name__).splitlines()[0]
    return (
        f"{name} could not be fetched from the hub ({first[:200]}); start again once {constants.ENDPOINT} can be "
        f"reached (files that are whole are kept), {copy}"
    )
