"""JSON and JSON lines that are too long, too deep, too large, or no text at all."""

import json
import os
from pathlib import Path

from benchmarks.hostile.attack import NAMED, REFUSED, Attack, Materials

REASON = Path("reason_seg") / "ReasonSeg" / "val"


def _annotated(damage):
    """An attack on a LabelMe file of the data: `damage(path)` rewrites it."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        root = materials.copy(materials.data(), folder)
        damage(min((root / REASON).glob("*.json")))
        return ["-m", "dataloaders.inspect", "--dataset_dir", str(root), "--decode"]

    return prepare


def _instances(damage):
    """The same for the instances of a referring set."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        root = materials.copy(materials.data(), folder)
        damage(root / "refer_seg" / "refcoco" / "instances.json")
        return ["-m", "dataloaders.inspect", "--dataset_dir", str(root)]

    return prepare


def _prompts(content: bytes):
    """An attack on the questions of `chat.py --prompts`."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        (folder / "questions.jsonl").write_bytes(content)
        return [
            "chat.py", "--version", str(materials.merged()), "--device", "cpu", "--prompts",
            str(folder / "questions.jsonl"), "--max_new_tokens", "4", "--vis_save_path", str(folder / "answers"),
        ]  # fmt: skip

    return prepare


def _changed(change):
    """A damage that changes the parsed value."""

    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return damage


def _raw(content: bytes):
    return lambda path: path.write_bytes(content)


def _many_points(value: dict) -> None:
    value["shapes"][0]["points"] = [[number % 97, number % 89] for number in range(3_000_000)]


def _many_shapes(value: dict) -> None:
    value["shapes"] = value["shapes"][:1] * 200_000


def _long_runs(value: dict) -> None:
    annotation = value["annotations"][0]
    image = next(image for image in value["images"] if image["id"] == annotation["image_id"])
    counts = "~" * 200_000 + "0"  # one number of a million bits
    annotation["segmentation"] = {"size": [image["height"], image["width"]], "counts": counts}


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _field(name: str, text: str):
    """Write a field's value as it stands, where `json.dumps` would refuse it."""

    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        value["annotations"][0][name] = "@"
        path.write_text(json.dumps(value).replace('"@"', text))

    return damage


_GBK = '{"text": ["红色的"], "is_sentence": false, "shapes": []}'.encode("gbk")
_LONG_NAME = b'{"image": "' + b"a" * 5000 + b'", "prompt": "x"}\n'
_DEEP = b"[" * 1_000_000 + b"]" * 1_000_000

ATTACKS = (
    Attack("json: a million brackets deep", _annotated(_raw(_DEEP)), NAMED, ("remedy",), quick=True),
    Attack("json: a number of 100,000 digits", _instances(_field("id", "9" * 100_000)), NAMED, ("instances.json",)),
    Attack("json: 1e999 as an id", _instances(_field("id", "1e999")), NAMED, ("instances.json",), quick=True),
    Attack("json: NaN as an id", _instances(_field("image_id", "NaN")), NAMED, ("instances.json",)),
    Attack("json: Infinity in a polygon", _instances(_field("segmentation", "[[1,1,Infinity,2,3,3]]")), NAMED),
    Attack("json: three million points", _annotated(_changed(_many_points)), NAMED, seconds=60),
    Attack("json: 200,000 shapes", _annotated(_changed(_many_shapes)), NAMED, ("remedy",), megabytes=1500),
    Attack("json: run lengths of a million bits", _instances(_changed(_long_runs)), NAMED, seconds=60),
    Attack("json: GBK", _annotated(_raw(_GBK)), NAMED, ("remedy",)),
    Attack("json: a pipe", _annotated(_pipe), NAMED, ("remedy",), seconds=60),
    Attack("json: zeros", _annotated(_raw(bytes(10_000))), NAMED, ("remedy",)),
    Attack("json: a Git LFS pointer", _annotated(_raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:"
           + b"0" * 64 + b"\nsize 12345\n")), NAMED, ("LFS",)),
    Attack("json lines: a line of 300 MB", _prompts(b'{"image": "a.jpg", "prompt": "' + b"a" * (300 * 2**20) + b'"}\n'),
           (1, 2), megabytes=1000),
    Attack("json lines: no text", _prompts(b"\xff\xfe\x00{}\n"), REFUSED, ("questions.jsonl",)),
    Attack("json lines: a name with NUL", _prompts(b'{"image": "a\\u0000.jpg", "prompt": "x"}\n'), (1, 2)),
    Attack("json lines: a name of 5000 letters", _prompts(_LONG_NAME), (1, 2), quick=True),
)  # fmt: skip
