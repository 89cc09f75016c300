"""Merged models whose configuration or weights were tampered with."""

import json
import struct
from pathlib import Path

from benchmarks.hostile.attack import Attack, Materials, an_image


def _chatting(damage):
    """An attack on a merged model: `damage(directory)`, then a question."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        model = materials.copy(materials.merged(), folder)
        damage(model)
        return [
            "chat.py", "--version", str(model), "--device", "cpu", "--image", str(an_image(materials)), "--prompt",
            "Where?", "--max_new_tokens", "4", "--vis_save_path", str(folder / "answers"),
        ]  # fmt: skip

    return prepare


def _config(*path_and_value):
    """Set a field of `config.json`, named by its path."""
    *path, value = path_and_value

    def damage(directory: Path) -> None:
        (directory / "digests.json").unlink()  # a stranger's model brings none, or fitting ones
        file = directory / "config.json"
        config = json.loads(file.read_text())
        inner = config
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        file.write_text(json.dumps(config))

    return _chatting(damage)


def _flipped(directory: Path) -> None:
    """One byte of the last tensor is another."""
    file = max(directory.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def _not_finite(directory: Path) -> None:
    (directory / "digests.json").unlink()
    file = max(directory.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-400:] = struct.pack("<f", float("nan")) * 100
    file.write_bytes(data)


def _cut(directory: Path) -> None:
    file = max(directory.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1000])


def _long_header(directory: Path) -> None:
    file = max(directory.glob("*.safetensors"))
    file.write_bytes(struct.pack("<Q", 2**40) + file.read_bytes()[8:])


ATTACKS = (
    Attack("checkpoint: a million layers", _config("text_config", "num_hidden_layers", 10**6), seconds=60, quick=True),
    Attack("checkpoint: no layers", _config("text_config", "num_hidden_layers", 0)),
    Attack("checkpoint: a vocabulary of 2e9", _config("text_config", "vocab_size", 2 * 10**9), seconds=60),
    Attack("checkpoint: a token id of 2e9", _config("seg_token_ids", [2 * 10**9])),
    Attack("checkpoint: a billion labels", _config("num_labels", 10**9), codes=(0, 2), seconds=60),
    Attack("checkpoint: attention from the hub", _config("text_config", "attn_implementation", "evil/kernel")),
    Attack("checkpoint: attention by its private name", _config("_attn_implementation", "evil/kernel"), codes=(0, 2)),
    Attack("checkpoint: auto_map", _config("auto_map", {"AutoModel": "evil--code.Model"}), codes=(0, 2)),
    Attack("checkpoint: mode 9", _config("mode", 9), says=("mode",)),
    Attack("checkpoint: map_geometry elsewhere", _config("map_geometry", "elsewhere"), says=("map_geometry",)),
    Attack("checkpoint: a dtype of objects", _config("dtype", "object"), codes=(0, 2)),
    Attack("checkpoint: SAM of 10^6 pixels", _config("sam_config", "vision_config", "image_size", 10**6), seconds=60),
    Attack("checkpoint: one byte changed", _chatting(_flipped), quick=True),
    Attack("checkpoint: NaN weights", _chatting(_not_finite)),
    Attack("checkpoint: a shard cut off", _chatting(_cut), says=(".safetensors",)),
    Attack("checkpoint: a header of a terabyte", _chatting(_long_header), says=(".safetensors",)),
)
