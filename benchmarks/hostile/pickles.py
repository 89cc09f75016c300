"""Annotation pickles that want to run code, or memory and time that the file does not pay for."""

import pickle
import struct
from pathlib import Path

from benchmarks.hostile.attack import MARK, NAMED, Attack, Materials

REFS = Path("refer_seg") / "refcoco" / "refs(unc).p"


def _inspecting(payload):
    """An attack that puts `payload(folder)` into the place of the refs and looks at the data."""

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


ATTACKS = tuple(
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
