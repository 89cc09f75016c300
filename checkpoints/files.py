"""Tensors and configurations in files: opened lazily, never trusted, complained about by name.

A pickle that holds anything but tensors and plain containers is refused (`checkpoints.torch_files`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from checkpoints.config_checks import refuse_foreign_parts
from checkpoints.torch_files import load_plain
from groundscore.errors import UserError, shown
from groundscore.reading import read_json, what_it_is

CONFIG_FILE = "config.json"
SAFETENSORS_INDEX = "model.safetensors.index.json"
SAFETENSORS_FILE = "model.safetensors"
TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_FILE = "pytorch_model.bin"
# How a directory holds its weights, the preferred way first: an index of shards, or one file.
WEIGHT_LAYOUTS = ((SAFETENSORS_INDEX, SAFETENSORS_FILE), (TORCH_INDEX, TORCH_FILE))
CARD_FILE = "README.md"
EXAMPLES_FOLDER = "examples"  # of a merged model: images with a question and an answer each
SETTINGS_FILE = "preprocessor_config.json"
ADAPTER_CONFIG, ADAPTER_FILE, TRAINED_FILE, BASE_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "trained.safetensors",
    "base.json",
)
# Names under which training programs put the tensors inside a file.
WRAPPERS = ("state_dict", "model", "module")
_ARCHIVE = b"PK"  # as which torch.save writes


class _Reader(Protocol):
    names: list[str]

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without its values where the format allows."""


class _SafetensorsReader:
    def __init__(self, path: Path):
        _check_readable(path)
        try:
            self._path, self._file = path, safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is not a complete safetensors file ({error}); download it again") from error
        self.names = list(self._file.keys())

    def tensor(self, name: str) -> Tensor:
        try:
            return self._file.get_tensor(name)
        except SafetensorError as error:  # a type that torch does not have
            raise UserError(f"{self._path}: {shown(name)} cannot be read ({error})") from error

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())


class _TorchReader:
    def __init__(self, path: Path):
        _check_readable(path)
        try:
            content = load_plain(path)
        except UserError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{path} cannot be read as a file of tensors ({reason}); download it again") from error
        self._tensors = _tensors_of(content, path)
        self.names = list(self._tensors)

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a loaded pickle, unwrapped if they lie below one of the usual names."""
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise UserError(f"{path} must contain tensors by name, but contains a {type(content).__name__}")
    others = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise UserError(f"{path} must contain tensors by name, but {shown(others[0])} is not the name of one")
    return content


def _check_readable(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(40)
    if not start:
        raise UserError(f"{path} is empty; download it again")
    other = None if start.startswith(_ARCHIVE) else what_it_is(start)
    if other is not None:
        raise UserError(f"{path} {other}")


class TensorFiles(Mapping[str, Tensor]):
    """Tensors by name in one file or in the shards of a directory; `[name]` reads one."""

    def __init__(self, path: Path, readers: Mapping[str, _Reader]):
        self.path = path
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name].tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._readers[name].shape(name)


def open_tensors(path: Path) -> TensorFiles:
    """A `.safetensors`, `.bin`, `.pt` or `.pth` file, or a directory that holds a model in one file or in shards."""
    if path.is_dir():
        return _open_directory(path)
    reader = _open_file(path)
    return TensorFiles(path, dict.fromkeys(reader.names, reader))


def _open_file(path: Path) -> _Reader:
    return _SafetensorsReader(path) if path.suffix == ".safetensors" else _TorchReader(path)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a directory's weights, of which an index may name some that are missing."""
    place = _index_or_file(directory)
    return [directory / shard for shard in shards_of_index(place)] if place.suffix == ".json" else [place]


def _index_or_file(directory: Path) -> Path:
    for name in (name for layout in WEIGHT_LAYOUTS for name in layout):
        if (directory / name).is_file():
            return directory / name
    raise UserError(
        f"{directory} contains no weights: expected {SAFETENSORS_FILE} or {TORCH_FILE}, or their shards with an index"
    )


def shards_of_index(index: Path) -> list[str]:
    """The names of the files beside an index that it spreads the tensors over."""
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json_object(index).get("weight_map")
    is_map = isinstance(weight_map, dict) and len(weight_map) > 0
    if not is_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f'{index} has no "weight_map" from tensor names to files')
    strange = [shard for shard in weight_map.values() if Path(shard).name != shard]
    if strange:
        raise UserError(f"{index} names {shown(strange[0])}, which is not a file beside it")
    return weight_map


def _open_directory(directory: Path) -> TensorFiles:
    place = _index_or_file(directory)
    if place.suffix != ".json":
        reader = _open_file(place)
        return TensorFiles(directory, dict.fromkeys(reader.names, reader))
    weight_map = _weight_map(place)
    shards = sorted(set(weight_map.values()))
    absent = [shard for shard in shards if not (directory / shard).is_file()]
    if absent:
        raise UserError(
            f"{directory} is incomplete: {len(absent)} of {len(shards)} files are missing ({', '.join(absent[:5])})"
        )
    readers = {shard: _open_file(directory / shard) for shard in shards}
    held = {shard: set(reader.names) for shard, reader in readers.items()}
    for name, shard in weight_map.items():
        if name not in held[shard]:
            raise UserError(f"{directory / shard} lacks {name}, which {place.name} says it has; download both again")
    return TensorFiles(directory, {name: readers[shard] for name, shard in weight_map.items()})


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    if not path.exists():
        raise UserError(f"{path.parent} has no {path.name}; it is not the directory of a model")
    value = read_json(path, missing="it belongs to a model")
    if not isinstance(value, dict):
        raise UserError(f"{path} must contain a JSON object, but contains a {type(value).__name__}")
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """The `config.json` of a model's directory, which may name nothing that is not ours to run."""
    config = read_json_object(directory / CONFIG_FILE)
    refuse_foreign_parts(config, directory / CONFIG_FILE)
    return config
