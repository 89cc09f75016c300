"""Attacks by what programs wrote and somebody changed: merged models, training runs, reports."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile.attack import Attack, Damage, Materials, Prepare, an_image

# --- merged models whose configuration or weights were tampered with --------------------------------------------------


def _chatting(damage: Damage) -> Prepare:
    """An attack on a merged model: `damage(directory)`, then a question."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        model = materials.copy(materials.merged(), folder)
        damage(model)
        return [
            "chat.py", "--version", str(model), "--device", "cpu", "--image", str(an_image(materials)), "--prompt",
            "Where?", "--max_new_tokens", "4", "--vis_save_path", str(folder / "answers"),
        ]  # fmt: skip

    return prepare


def _config(*path_and_value: Any) -> Prepare:
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


CHECKPOINTS = (
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


# --- training runs that come back damaged, or are started again with other flags --------------------------------------


MORE = ("--epochs", "3")


def _continued(damage: Damage, *flags: str) -> Prepare:
    """An attack on a run: `damage(run)`, then the same training with an epoch more and `flags`."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        run = materials.copy(materials.run(), folder)
        damage(run)
        return materials.training(run.name, folder, *MORE, *flags)

    return prepare


def _merged(damage: Damage) -> Prepare:
    """An attack on a run: `damage(run)`, then merging."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        run = materials.copy(materials.run(), folder)
        damage(run)
        return ["merge_lora_weights.py", "--no_check", "--weight", str(run), "--save_path", str(folder / "merged")]

    return prepare


def _newest_marker(change: Callable[[bytes], bytes]) -> Damage:
    """Rewrite the newest marker of the latest checkpoints."""

    def damage(run: Path) -> None:
        marker = max(run.glob("ckpt_model/*/complete.json"), key=lambda path: path.stat().st_mtime)
        marker.write_bytes(change(marker.read_bytes()))

    return damage


def _step_changed(data: bytes) -> bytes:
    value = json.loads(data)
    value["step"] = value.get("step", 0) - 1
    return json.dumps(value).encode()


def _weights_changed(run: Path) -> None:
    for file in sorted(run.glob("*ckpt_model/*/*model_states.pt")):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


def _alpha_changed(run: Path) -> None:
    for file in run.glob("*ckpt_model/*/settings.json"):
        settings = json.loads(file.read_text())
        settings["flags"]["lora_alpha"] = 96
        file.write_text(json.dumps(settings))


def _record(name: str, content: bytes) -> Damage:
    return lambda run: (run / name).write_bytes(content)


def _nothing(run: Path) -> None:
    pass


def _into_documents(*flags: str) -> Prepare:
    """Merging into a folder of the user's own documents, or over the run itself."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        run = materials.copy(materials.run(), folder)
        target = folder / "documents"
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
        chosen = run if flags else target
        return ["merge_lora_weights.py", "--weight", str(run), "--overwrite", "--save_path", str(chosen)]

    return prepare


RUNS = (
    Attack("run: a byte of its weights, merged", _merged(_weights_changed), quick=True),
    Attack("run: lora_alpha of its settings, merged", _merged(_alpha_changed)),
    Attack("run: merged over documents", _into_documents(), quick=True),
    Attack("run: merged over itself", _into_documents("itself")),
    Attack("run: a marker cut off", _continued(_newest_marker(lambda data: data[: len(data) // 2])), codes=(0,),
           says=("done",)),
    Attack("run: a marker that is a list", _continued(_newest_marker(lambda data: b"[]")), codes=(0,), says=("done",)),
    Attack("run: a marker a million deep", _continued(_newest_marker(lambda data: b"[" * 10**6)), codes=(0,),
           says=("done",)),
    Attack("run: another step in the marker", _continued(_newest_marker(_step_changed)), codes=(0,), says=("done",)),
    Attack("run: scores.json torn", _continued(_record("scores.json", b'{"best": {"st')), codes=(0,), says=("done",)),
    Attack("run: scores.json of another shape", _continued(_record("scores.json", b'[1, 2, {"best": NaN}]')),
           codes=(0,), says=("done",)),
    Attack("run: metrics.jsonl no text", _continued(_record("metrics.jsonl", b"\xff\xfe\x00\n{")), codes=(0,),
           says=("done",)),
    Attack("run: another LoRA rank", _continued(_nothing, "--lora_r", "4"), says=("lora_r",)),
    Attack("run: another precision", _continued(_nothing, "--precision", "bf16"), says=("precision",)),
    Attack("run: another learning rate", _continued(_nothing, "--lr", "1e-5"), codes=(0,), says=("lr", "done")),
)  # fmt: skip


# --- reports and saved predictions with hostile values ----------------------------------------------------------------


def _compared(damage: Callable[[Any], Any]) -> Prepare:
    """An attack on a report: `damage(value)` changes it, then it is compared with the clean one."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        clean = materials.report()
        value = json.loads(clean.read_text())
        value = damage(value) or value
        hostile = folder / "hostile.json"
        hostile.write_text(value if isinstance(value, str) else json.dumps(value))
        for rows in clean.parent.glob(f"{clean.stem}*.jsonl"):
            (folder / rows.name.replace(clean.stem, "hostile", 1)).write_bytes(rows.read_bytes())
        return ["eval.py", "--compare", str(hostile), str(clean)]

    return prepare


def _row(field: str, replacement: Any) -> Prepare:
    """An attack on the rows beside a report: the field of the first row becomes something else."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        clean = materials.report()
        hostile = folder / "hostile.json"
        hostile.write_bytes(clean.read_bytes())
        first, *others = clean.with_suffix(".rows.jsonl").read_text().splitlines()
        row = json.loads(first)
        if field not in row:
            raise RuntimeError(f"rows have no {field!r} any more, but {sorted(row)}")
        row[field] = replacement
        hostile.with_suffix(".rows.jsonl").write_text("\n".join([json.dumps(row), *others]) + "\n")
        return ["eval.py", "--compare", str(hostile), str(clean)]

    return prepare


HOSTILE = (
    ("NaN", math.nan),
    ("-1", -1),
    ("text", "12"),
    ("null", None),
    ("true", True),
    ("a list", [1]),
    ("400 digits", 10**400),
)

REPORTS = (
    *(
        Attack(f"report: {field} of a row is {name}", _row(field, value), says=("hostile.rows.jsonl",),
               quick=(field, name) == ("intersection", "NaN"))
        for field in ("intersection", "union")
        for name, value in HOSTILE
    ),
    Attack("report: a list", _compared(lambda value: "[]"), says=("hostile.json",)),
    Attack("report: nothing", _compared(lambda value: "{}"), says=("hostile.json",)),
    Attack("report: 100,000 brackets deep", _compared(lambda value: '{"a":' * 100_000 + "1" + "}" * 100_000)),
)  # fmt: skip


ATTACKS = CHECKPOINTS + RUNS + REPORTS
