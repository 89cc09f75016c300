"""Image files made byte by byte, for tests."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

COLOURS = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8), (320, 240))


def encode(image: Image.Image | np.ndarray, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **settings)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *, depth=8, kind=2, rows: bytes | None = None, extra=b"") -> bytes:
    """A PNG; depth: bits; kind: 0 for grey, 2 for RGB, 6 for RGBA; rows: 0 unless given; extra: further chunks."""
    size = (width * {0: 1, 2: 3, 6: 4}[kind] * depth + 7) // 8
    if rows is None:
        packer = zlib.compressobj(1)
        body = b"".join(packer.compress(bytes(size + 1)) for _ in range(height)) + packer.flush()
    else:
        body = zlib.compress(b"".join(b"\0" + rows[start : start + size] for start in range(0, len(rows), size)))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(tags: list[tuple[int, int, int, int]], rest: bytes) -> bytes:
    """tags: (number, type, count, value)."""
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + rest
