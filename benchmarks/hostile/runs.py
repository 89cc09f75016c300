"""Training runs that come back damaged, or started again with other flags."""

import json
from pathlib import Path

from benchmarks.hostile.attack import Attack, Materials

MORE = ("--epochs", "3")


def _continued(damage, *flags: str):
    """An attack on a run: `damage(run)`, then the same training with an epoch more and `flags`."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        run = materials.copy(materials.run(), folder)
        damage(run)
        return materials.training(run.name, folder, *MORE, *flags)

    return prepare


def _merged(damage):
    """An attack on a run: `damage(run)`, then merging."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        run = materials.copy(materials.run(), folder)
        damage(run)
        return ["merge_lora_weights.py", "--no_check", "--weight", str(run), "--save_path", str(folder / "merged")]

    return prepare


def _markers(run: Path) -> list[Path]:
    return sorted(run.glob("*ckpt_model/*/complete.json"))


def _each_marker(change):
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


def _record(name: str, content: bytes):
    return lambda run: (run / name).write_bytes(content)


def _nothing(run: Path) -> None:
    pass


def _into_documents(*flags: str):
    """Merging into a folder of the user's own documents, or over the run itself."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        run = materials.copy(materials.run(), folder)
        target = folder / "documents"
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
        chosen = run if flags else target
        return ["merge_lora_weights.py", "--weight", str(run), "--overwrite", "--save_path", str(chosen)]

    return prepare


ATTACKS = (
    Attack("run: a byte of its weights, merged", _merged(_weights_changed), quick=True),
    Attack("run: lora_alpha of its settings, merged", _merged(_alpha_changed)),
    Attack("run: merged over documents", _into_documents(), quick=True),
    Attack("run: merged over itself", _into_documents("itself")),
    Attack("run: a marker cut off", _continued(_each_marker(lambda data: data[: len(data) // 2])), codes=(0,),
           says=("done",)),
    Attack("run: a marker that is a list", _continued(_each_marker(lambda data: b"[]")), codes=(0,), says=("done",)),
    Attack("run: a marker a million deep", _continued(_each_marker(lambda data: b"[" * 10**6)), codes=(0,),
           says=("done",)),
    Attack("run: another step in the marker", _continued(_each_marker(_step_changed)), codes=(0,), says=("done",)),
    Attack("run: scores.json torn", _continued(_record("scores.json", b'{"best": {"st')), codes=(0,), says=("done",)),
    Attack("run: scores.json of another shape", _continued(_record("scores.json", b'[1, 2, {"best": NaN}]')),
           codes=(0,), says=("done",)),
    Attack("run: metrics.jsonl no text", _continued(_record("metrics.jsonl", b"\xff\xfe\x00\n{")), codes=(0,),
           says=("done",)),
    Attack("run: another LoRA rank", _continued(_nothing, "--lora_r", "4"), says=("lora_r",)),
    Attack("run: another precision", _continued(_nothing, "--precision", "bf16"), says=("precision",)),
    Attack("run: another learning rate", _continued(_nothing, "--lr", "1e-5"), codes=(0,), says=("lr", "done")),
)  # fmt: skip
