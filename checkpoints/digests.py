"""Whether files still hold what was written: digests, and those of a model's directory in `digests.json`, written last.

    {"format": 1, "files": {"model.safetensors": {"bytes": 12, "blake2b": "…"}, …}, "card": {…}, "examples": {…}}

The model card and the examples stand apart: people add to them, which changes no answer, and which nothing may replace.
Older directories have no such file; they load unchecked.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    BASE_FILE,
    CARD_FILE,
    CONFIG_FILE,
    EXAMPLES_FOLDER,
    SAFETENSORS_FILE,
    SAFETENSORS_INDEX,
    SETTINGS_FILE,
    TORCH_FILE,
    TORCH_INDEX,
    TRAINED_FILE,
    read_json_object,
)
from dataloaders.batching.tokenization import TOKENIZER_FILES
from groundscore.errors import UserError
from groundscore.writing import write_json
from model.config import GroundingConfig

BLOCK = 1 << 22  # bytes
DIGESTS_FILE = "digests.json"
FORMAT = 1
LARGEST = 10**9  # bytes of a file that is checked whenever it is loaded
NAMES = {
    *(CARD_FILE, CONFIG_FILE, DIGESTS_FILE, SAFETENSORS_FILE, SAFETENSORS_INDEX, TORCH_FILE, TORCH_INDEX),
    *(ADAPTER_CONFIG, ADAPTER_FILE, BASE_FILE, TRAINED_FILE),
    *(SETTINGS_FILE, *TOKENIZER_FILES),
}
SHARD = re.compile(r"(model-\d{5}-of-\d{5}\.safetensors|pytorch_model-\d{5}-of-\d{5}\.bin)")


def digest_of(path: Path) -> str:
    """BLAKE2 (128 bits) of a file's bytes, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_of_text(text: str) -> str:
    """BLAKE2 (128 bits) of a text in UTF-8, in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_record(path: Path) -> dict[str, Any]:
    """Size and digest of a file, as our markers and lists of digests hold them."""
    return {"bytes": path.stat().st_size, "blake2b": digest_of(path)}


def write_digests(directory: Path) -> None:
    """List the files of a finished directory with sizes and digests."""
    files = _records_of(directory)
    card = files.pop(CARD_FILE, None)
    content = {"format": FORMAT, "files": files, "card": card, "examples": _records_of(directory / EXAMPLES_FOLDER)}
    write_json(directory / DIGESTS_FILE, content, sort_keys=True)


def _records_of(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file of a directory; nothing where there is none."""
    return {path.name: file_record(path) for path in sorted(directory.glob("*")) if path.is_file()}


def check_digests(directory: Path, *, whole: bool) -> str | None:
    """Compare a directory's files with what was written; a note for the user, where there is something to say.

    whole: also files that are too large to be read twice whenever they are loaded. Raises `UserError` for the first
    file that differs.
    """
    content = _read_digests(directory)
    if content is None:
        return f"{directory} has no digests to verify" if whole else None
    records = content["files"]
    for name, record in records.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing, though {DIGESTS_FILE} lists it; merge or download the model again")
        size = path.stat().st_size
        is_read = whole or size <= LARGEST
        if size != record["bytes"] or (is_read and digest_of(path) != record["blake2b"]):
            raise UserError(
                f"{path} is damaged: its content is not what was written. Merge or download the model again; if you "
                f"changed the file yourself, remove {DIGESTS_FILE} beside it"
            )
    return f"{len(records)} files of {directory} are what was written" if whole else None


def refuse_foreign(directory: Path) -> None:
    """Raise `UserError` unless all of an existing directory was written by this program, so that it may be replaced."""
    if not directory.is_dir():
        raise UserError(f"{directory} is a file; only a merged model of this program is replaced")
    entries = sorted(directory.iterdir())
    content = _read_digests(directory)
    # Older directories have no list, and what people wrote into their model cards cannot be told.
    known = NAMES if content is None else {*content["files"], CARD_FILE, DIGESTS_FILE}
    for path in entries:
        if path.name == EXAMPLES_FOLDER and content is not None and path.is_dir():
            if len(list(path.iterdir())) != len(found := _records_of(path)) or found != content.get("examples"):
                raise UserError(
                    f"{path} was changed after it was written, and would be lost; move it away, or choose another "
                    "directory"
                )
        elif path.is_dir() or not (path.name in known or (content is None and SHARD.fullmatch(path.name))):
            raise UserError(
                f"{directory} contains {path.name}, which is not a part of a merged model; only merged models of this "
                "program are replaced. Choose another directory, or move it away yourself"
            )
    card = directory / CARD_FILE
    if content is not None and content.get("card") and card.is_file() and file_record(card) != content["card"]:
        raise UserError(
            f"{card} was changed after it was written, and would be lost; move it away, or choose another directory"
        )
    if entries and content is None and not _is_ours(directory):
        raise UserError(
            f"{directory} was not written by merge_lora_weights.py; only merged models of this program are replaced. "
            "Choose another directory, or move it away yourself"
        )


def _is_ours(directory: Path) -> bool:
    """Whether a directory without digests is ours: in the reference's layout it cannot be told from a published one."""
    return read_json_object(directory / CONFIG_FILE).get("model_type") == GroundingConfig.model_type


def _read_digests(directory: Path) -> dict[str, Any] | None:
    """The list of a directory, whose "files" are records by name; None where there is none."""
    path = directory / DIGESTS_FILE
    if not path.is_file():
        return None
    content = read_json_object(path)
    files = content.get("files")
    if content.get("format") != FORMAT or not isinstance(files, dict) or not all(map(_is_record, files.items())):
        raise UserError(
            f"{path} is damaged: it is not a list of files with sizes and digests. Merge or download the model "
            "again, or remove it to load the model unchecked"
        )
    return content


def _is_record(item: tuple[str, Any]) -> bool:
    name, record = item
    return (
        (name in NAMES or SHARD.fullmatch(name) is not None)
        and isinstance(record, dict)
        and type(record.get("bytes")) is int
        and isinstance(record.get("blake2b"), str)
    )
