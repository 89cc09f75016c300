"""Images that are something else, or that cost far more than their bytes."""

import io
import os
import struct
import zlib
from pathlib import Path

from benchmarks.hostile.attack import NAMED, REFUSED, Attack, Materials


def _asked(write, name: str = "photo.jpg"):
    """An attack that writes an image with `write(path)` and asks about it."""

    def prepare(folder: Path, materials: Materials) -> list[str]:
        write(folder / name)
        return [
            "chat.py", "--version", str(materials.merged()), "--device", "cpu", "--image", str(folder / name),
            "--prompt", "Where?", "--max_new_tokens", "4", "--vis_save_path", str(folder / "answers"),
        ]  # fmt: skip

    return prepare


def _drawn(write):
    """An attack that puts the image into the place of one of the data's."""

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


def _write(data: bytes):
    return lambda path: path.write_bytes(data)


ATTACKS = (
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
