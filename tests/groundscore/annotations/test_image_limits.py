"""Image files that nobody vouches for: what they may be, and what they may cost."""

import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from groundscore.annotations.bad_entries import BadEntry
from groundscore.annotations.images import read_image
from groundscore.annotations.label_maps import read_label_map
from tests.bounded import ROOT, run_bounded
from tests.groundscore.annotations.image_bytes import COLOURS, chunk, encode, png, tiff


def many_tags(count: int, size: int) -> bytes:
    """EXIF data whose tags all hold the same bytes."""
    return tiff([(40000 + number, 1, size, 0) for number in range(count)], bytes(size))


def jpeg_with_scans(count: int) -> bytes:
    data = encode(np.full((2000, 2000, 3), 90, np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def jpeg_with_exif(exif: bytes) -> bytes:
    data = encode(COLOURS, "JPEG")
    parts = [exif[start : start + 60000] for start in range(0, len(exif), 60000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    return data[:2] + segments + data[2:]


def tiff_with_strips(count: int) -> bytes:
    """Two strips are needed; further ones go over the image again and again."""
    side, start = 4000, 8 + 2 + 9 * 12 + 4
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, count, start), (277, 3, 1, 1), (278, 4, 1, side - 1), (279, 4, count, start)]
    return tiff(tags, struct.pack("<I", start) * count + bytes(side * side))


def tiff_with_tile(side: int, stored: bytes) -> bytes:
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 200), (325, 4, 1, len(stored))]
    return tiff(tags, bytes(200 - 8 - 6 - 12 * len(tags)) + stored)


GIF_HEAD = b"GIF89a" + struct.pack("<HH", 10, 10) + bytes(3)
GIF_COMMENT = GIF_HEAD + b"!\xfe" + (b"\xff" + b"x" * 255) * 80_000 + b"\0"
PACKED = zlib.compress(bytes(2**29), 1)
COSTLY = {
    "a PNG of 169 megapixels": lambda: png(13000, 13000, kind=0),
    "a PNG of 169 megapixels with 16 bits": lambda: png(13000, 13000, depth=16, kind=6),
    "a TIFF of 169 megapixels": lambda: encode(Image.new("1", (13000, 13000)), "TIFF", compression="group4"),
    "a BMP header": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 13000, 13000, 1, 24, *[0] * 6),
    "a GIF whose frame is larger than it": lambda: GIF_HEAD + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0),
    "a JPEG with thousands of scans": lambda: jpeg_with_scans(3000),
    "a PNG with text that unpacks": lambda: png(9, 9, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + PACKED)),
    "a PNG with a profile that unpacks": lambda: png(9, 9, extra=chunk(b"iCCP", b"a\0\0" + PACKED)),
    "a PNG with tags": lambda: png(9, 9, extra=chunk(b"eXIf", many_tags(20_000, 10_000_000))),
    "a JPEG with tags": lambda: jpeg_with_exif(many_tags(5000, 100_000)),
    "a JPEG with much EXIF data": lambda: jpeg_with_exif(bytes(20_000_000)),
    "a TIFF with tags": lambda: many_tags(3000, 5_000_000),
    "a TIFF with strips": lambda: tiff_with_strips(200_000),
    "a TIFF with a large tile": lambda: tiff_with_tile(60_000, zlib.compress(bytes(10**8))),
    "a GIF with a comment": lambda: GIF_COMMENT,
    "a BigTIFF": lambda: b"II+\0" + bytes(1000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_an_image_that_costs_too_much_is_refused(tmp_path, name):
    (tmp_path / "photo.jpg").write_bytes(COSTLY[name]())

    message = run_bounded(
        """
        from groundscore.annotations.images import read_image
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        limit()
        print(refused(lambda: read_image(sys.argv[1])))
        """,
        tmp_path / "photo.jpg",
        megabytes=400,
    )

    assert "photo.jpg" in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as the module does outside of tests
def test_label_maps_have_the_same_limits(tmp_path):
    (tmp_path / "a.png").write_bytes(png(13000, 13000, kind=0))

    with pytest.raises(BadEntry, match="13000 × 13000 pixels, more than"):
        read_label_map(tmp_path / "a.png")


def test_the_limit_of_pixels_can_be_lifted(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(40, 30))
    monkeypatch.setenv("UGROUND_MAX_PIXELS", "1000")

    with pytest.raises(BadEntry, match="30 × 40 pixels, more than 1000; .* or set UGROUND_MAX_PIXELS"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("UGROUND_MAX_PIXELS", "1200")
    assert read_image(tmp_path / "a.png").shape == (30, 40, 3)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
FOREIGN = {
    "PostScript": POSTSCRIPT,
    "PostScript with a preview": struct.pack("<IIIIIIIH", 0xC6D3D0C5, 32, len(POSTSCRIPT), *[0] * 5) + POSTSCRIPT,
    "PDF": b"%PDF-1.4\n%%EOF\n",
    "XPM": b'/* XPM */\nstatic char *a[] = {"1 1 1 1", "a c #000000", "a"};\n',
    "PPM": b"P6 2 2 255\n" + bytes(12),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "Photoshop": b"8BPS\0\1" + bytes(100),
    "JPEG 2000": encode(COLOURS, "JPEG2000"),
    "a Windows icon": encode(COLOURS[:32, :32], "ICO"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_not_opened(tmp_path, monkeypatch, name):
    tools = tmp_path / "tools"
    tools.mkdir()
    ghostscript = tools / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\necho 10.0\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "photo.jpg").write_bytes(FOREIGN[name])

    for read in (read_image, read_label_map):
        with pytest.raises(BadEntry, match="is not an image of a format that is read|not an image of pixels"):
            read(tmp_path / "photo.jpg")
    assert not (tmp_path / "started").exists()


def test_only_one_place_opens_images():
    files = [
        path
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in ("tests", ".venv", "runs", "build")
    ]

    found = [path.name for path in files if "Image.open(" in path.read_text(encoding="utf-8")]

    assert found == ["image_files.py"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC.*convert it to JPEG or PNG.*heif-convert"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "is a video"),
        (b"%PDF-1.7\n" + bytes(40), "PDF document.*save it as JPEG or PNG"),
        (b"\n <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
        (b"just words" + bytes(40), "not an image of a format that is read .*save it as JPEG or PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"", "is empty"),
    ],
)
def test_what_an_image_is_instead_is_said(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)

    with pytest.raises(BadEntry, match=message):
        read_image(tmp_path / "a.jpg")


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    os.mkfifo("fifo.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        for name in ("fifo.jpg", "socket.jpg", "/dev/zero", ".", "a\0b.jpg", "x" * 300):
            with pytest.raises(BadEntry):
                read_image(name)
