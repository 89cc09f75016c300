"""Attacks by files of a data set or of a question: pickles, images, JSON."""

import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile.attack import MARK, NAMED, REFUSED, Attack, Damage, Materials, Prepare

# --- pickles that want to run code, or memory and time that the file does not pay for ---------------------------------


REFS = Path("refer_seg") / "refcoco" / "refs(unc).p"


def _inspecting(payload: Callable[[Path], bytes]) -> Prepare:
    """An attack that replaces the refs by `payload(folder)` and inspects the data."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        root = materials.copy(materials.data(), folder)
        (root / REFS).write_bytes(payload(folder))
        return ["-m", "dataloaders.inspect", "--dataset_dir", str(root)]

    return prepare


def _call(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls MODULE.NAME(ARGUMENT); `argument` is the opcodes that push a tuple."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"R."


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _touch(folder: Path) -> bytes:
    return _text(f"touch '{folder / MARK}'") + b"\x85"


def _forged_dtype(folder: Path) -> bytes:
    """numpy.dtype("O") whose state is then set to hold no objects, and a scalar of it from eight bytes."""
    dtype = b"cnumpy\ndtype\n" + _text("O") + b"\x85R"
    state = b"(K\x03" + _text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return b"\x80\x02cnumpy.core.multiarray\nscalar\n" + dtype + state + b"U\x08" + b"A" * 8 + b"\x86R."


def _fields_outside(folder: Path) -> bytes:
    """A void dtype with a field beyond its element."""
    dtype = b"cnumpy\ndtype\n" + _text("V8") + b"\x85R"
    field = b"}" + _text("a") + b"cnumpy\ndtype\n" + _text("O") + b"\x85RJ\x00\x10\x00\x00\x86s"
    state = b"(K\x03" + _text("|") + b"N(" + _text("a") + b"t" + field + b"K\x08K\x01K\x00tb"
    return b"\x80\x02cnumpy.core.multiarray\nscalar\n" + dtype + state + b"U\x08" + b"A" * 8 + b"\x86R."


def _laughs(folder: Path) -> bytes:
    """Thirty lists, each of which holds the one before ten times over."""
    body = b"](K\x01K\x02eq\x00"
    for level in range(30):
        body += b"]q" + bytes([level + 1]) + b"(" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"e"
    return b"\x80\x02" + body + b"."


def _laughing_ref(folder: Path) -> bytes:
    """A list of one ref whose sentences are such a list."""
    inner = _laughs(folder)[2:-1]
    return b"\x80\x02]}(" + _text("ref_id") + b"K\x01" + _text("sentences") + inner + b"ua."


def _number(value: int) -> bytes:
    data = value.to_bytes(8, "little")
    return b"\x8a\x08" + data + b"\x85"


def _short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def _stack_global(folder: Path) -> bytes:
    return b"\x80\x04" + _short("posix") + _short("system") + b"\x93" + _touch(folder) + b"R."


PICKLES = tuple(
    Attack(f"pickle: {name}", _inspecting(payload), codes=NAMED, says=("refs(unc).p", "remedy"), quick=quick)
    for name, payload, quick in (
        ("os.system", lambda folder: _call("os", "system", _touch(folder)), True),
        ("posix.system by STACK_GLOBAL", _stack_global, False),
        ("builtins.eval", lambda folder: _call("builtins", "eval", _text("1+1") + b"\x85"), False),
        ("INST", lambda folder: b"(S'touch %s'\nios\nsystem\n." % bytes(folder / MARK), False),
        ("forged dtype", _forged_dtype, True),
        ("a field outside its element", _fields_outside, False),
        ("bytes(7e9)", lambda folder: _call("builtins", "bytes", _number(7 * 10**9)), True),
        ("bytearray(7e9)", lambda folder: _call("builtins", "bytearray", _number(7 * 10**9)), False),
        ("billion laughs", _laughs, False),
        ("billion laughs in a ref", _laughing_ref, True),
        ("a million lists deep", lambda folder: b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".", False),
        ("a length of 2**62", lambda folder: b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.", False),
        ("cut off", lambda folder: pickle.dumps([{"ref_id": 1}] * 50)[:-20], False),
        ("persistent id", lambda folder: b"Pevil\n.", False),
        ("extension registry", lambda folder: b"\x80\x02\x82\x01.", False),
    )
)  # fmt: skip


# --- images that are something else, or that cost far more than their bytes -------------------------------------------


def _asked(write: Damage, name: str = "photo.jpg") -> Prepare:
    """An attack that writes an image with `write(path)` and asks about it."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        write(folder / name)
        return [
            "chat.py", "--version", str(materials.merged()), "--device", "cpu", "--image", str(folder / name),
            "--prompt", "Where?", "--max_new_tokens", "4", "--vis_save_path", str(folder / "answers"),
        ]  # fmt: skip

    return prepare


def _drawn(write: Damage) -> Prepare:
    """An attack that replaces an image of the data set."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        root = materials.copy(materials.data(), folder)
        image = min((root / "reason_seg" / "ReasonSeg" / "val").glob("*.jpg"))
        image.unlink()
        write(image)
        return ["-m", "dataloaders.inspect", "--dataset_dir", str(root), "--decode"]

    return prepare


def _postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n")


def _png(width: int, height: int, depth: int = 8, kind: int = 2, chunks: tuple = ()) -> bytes:
    """A PNG of zeros whose data are compressed to almost nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    line = bytes(1 + width * channels * depth // 8)
    compressor = zlib.compressobj(9)
    data = b"".join(compressor.compress(line) for _ in range(height)) + compressor.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    more = b"".join(chunk(name, content) for name, content in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _many_scans(path: Path) -> None:
    """A progressive JPEG whose last scan is repeated thousands of times."""
    from PIL import Image

    stored = io.BytesIO()
    Image.effect_noise((2000, 2000), 80).convert("RGB").save(stored, "JPEG", progressive=True, quality=20)
    data = stored.getvalue()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * 2000 + b"\xff\xd9")


def _text_bomb(path: Path) -> None:
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    path.write_bytes(_png(64, 64, chunks=((b"zTXt", b"Comment\0\0" + bomb),)))


def _write(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data)


IMAGES = (
    Attack("image: PostScript named .jpg, in chat", _asked(_postscript), says=("photo.jpg",), quick=True),
    Attack("image: PostScript named .jpg, in data", _drawn(_postscript), NAMED, ("remedy",)),
    Attack("image: PDF named .png", _asked(_write(b"%PDF-1.4\n1 0 obj<<>>endobj\n%%EOF"), "a.png"), says=("a.png",)),
    Attack("image: a PNG of 20000 x 20000", _asked(lambda p: p.write_bytes(_png(20000, 20000, 1, 0)), "a.png"),
           says=("a.png",)),
    Attack("image: a PNG of 13000 x 13000, 16 bit RGBA", _asked(lambda p: p.write_bytes(_png(13000, 13000, 16, 6)),
           "a.png"), says=("a.png",)),
    Attack("image: text of 200 MB in a PNG", _asked(_text_bomb, "a.png"), codes=(0, 2), megabytes=300),
    Attack("image: a JPEG of two thousand scans", _drawn(_many_scans), NAMED, ("remedy",), seconds=60),
    Attack("image: a pipe", _asked(os.mkfifo), REFUSED, ("photo.jpg",), seconds=60, quick=True),
    Attack("image: a pipe in data", _drawn(os.mkfifo), NAMED, ("remedy",), seconds=90),
    Attack("image: a device", _asked(lambda path: path.symlink_to("/dev/zero")), says=("photo.jpg",), seconds=60),
    Attack("image: a folder", _asked(lambda path: path.mkdir()), says=("photo.jpg",)),
    Attack("image: empty", _asked(_write(b"")), says=("photo.jpg",)),
    Attack("image: a strip of 1 x 60000", _asked(lambda p: p.write_bytes(_png(60000, 1)), "a.png"), says=("a.png",)),
)  # fmt: skip


# --- JSON and JSON lines that are too long, too deep, too large, or no text at all ------------------------------------


REASON = Path("reason_seg") / "ReasonSeg" / "val"


def _annotated(damage: Damage) -> Prepare:
    """An attack on a LabelMe file of the data: `damage(path)` rewrites it."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        root = materials.copy(materials.data(), folder)
        damage(min((root / REASON).glob("*.json")))
        return ["-m", "dataloaders.inspect", "--dataset_dir", str(root), "--decode"]

    return prepare


def _instances(damage: Damage) -> Prepare:
    """The same for the instances of a referring set."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        root = materials.copy(materials.data(), folder)
        damage(root / "refer_seg" / "refcoco" / "instances.json")
        return ["-m", "dataloaders.inspect", "--dataset_dir", str(root)]

    return prepare


def _prompts(content: bytes) -> Prepare:
    """An attack on the questions of `chat.py --prompts`."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        (folder / "questions.jsonl").write_bytes(content)
        return [
            "chat.py", "--version", str(materials.merged()), "--device", "cpu", "--prompts",
            str(folder / "questions.jsonl"), "--max_new_tokens", "4", "--vis_save_path", str(folder / "answers"),
        ]  # fmt: skip

    return prepare


def _changed(change: Callable[[Any], None]) -> Damage:
    """A damage that changes the parsed value."""

    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return damage


def _raw(content: bytes) -> Damage:
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


def _field(name: str, text: str) -> Damage:
    """Write a field's value as it stands, where `json.dumps` would refuse it."""

    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        value["annotations"][0][name] = "@"
        path.write_text(json.dumps(value).replace('"@"', text))

    return damage


_GBK = '{"text": ["红色的"], "is_sentence": false, "shapes": []}'.encode("gbk")
_LONG_NAME = b'{"image": "' + b"a" * 5000 + b'", "prompt": "x"}\n'
_DEEP = b"[" * 1_000_000 + b"]" * 1_000_000

TEXTS = (
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


ATTACKS = PICKLES + IMAGES + TEXTS
