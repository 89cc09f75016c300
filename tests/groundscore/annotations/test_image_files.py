"""Image files of every kind: what they may be, what they may cost, and what their pixels mean."""

import io
import os
import re
import socket
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from groundscore.annotations.bad_entries import BadEntry, noting_repairs
from groundscore.annotations.image_files import open_image
from groundscore.annotations.images import read_image
from groundscore.annotations.label_maps import read_label_map, read_mask
from tests.bounded import ROOT, run_bounded

SIDE = 64
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
NUMBERS = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
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
        with pytest.raises(BadEntry, match="is not an image of a format that is read"):
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
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC.*convert it to JPEG or PNG"),
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


DEPTHS = {
    "16 bits": (RAMP * 65535).astype(np.uint16),
    "12 bits in 16": (RAMP * 4095).astype(np.uint16),
    "32-bit integers": (RAMP * 2e9).astype(np.int32),
    "32-bit integers up to 255": np.rint(RAMP * 255).astype(np.int32),
    "fractions": RAMP.astype(np.float32),
    "floats up to 255": (RAMP * 255).astype(np.float32),
    "floats around 0": (RAMP * 2 - 1).astype(np.float32),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_greys_of_every_depth_keep_their_range(tmp_path, name):
    (tmp_path / "a.tif").write_bytes(encode(DEPTHS[name], "TIFF"))

    image = read_image(tmp_path / "a.tif").astype(float)

    assert np.abs(image - RAMP[:, :, None] * 255).max() <= 1


def test_a_grey_png_of_12_bits_keeps_its_range(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(DEPTHS["12 bits in 16"], "PNG"))

    assert np.abs(read_image(tmp_path / "a.png")[:, :, 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_12_bits_in_16_keep_their_range(tmp_path, kind, channels):
    values = np.random.default_rng(0).integers(0, 4096, (24, 32, channels)).astype(np.uint16)
    values[..., 3:] = 65535  # opaque
    cv2.imwrite(str(tmp_path / f"camera.{kind}"), values)

    read = read_image(tmp_path / f"camera.{kind}")

    assert np.abs(read - values[..., 2::-1] * (255 / 4095)).max() <= 0.5


def test_pixels_that_are_no_numbers_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(encode(np.full((9, 9), np.nan, np.float32), "TIFF"))

    with pytest.raises(BadEntry, match="not finite"):
        read_image(tmp_path / "a.tif")


def test_an_uncompressed_tiff_of_ycbcr_keeps_its_colours(tmp_path):
    Image.fromarray(COLOURS).convert("YCbCr").save(tmp_path / "video.tif")

    assert np.abs(read_image(tmp_path / "video.tif").astype(int) - COLOURS).max() <= 4


def to_lab(image: Image.Image) -> Image.Image:
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("LAB", "TIFF"), ("RGBA", "PNG"), ("RGB", "AVIF")]
    + [("RGB", "WEBP"), ("RGB", "BMP"), ("RGB", "PNG"), ("RGB", "TIFF")],
)
def test_colours_stay_what_they_are(tmp_path, mode, kind):
    image = Image.fromarray(COLOURS)
    (tmp_path / "a").write_bytes(encode(to_lab(image) if mode == "LAB" else image.convert(mode), kind))

    assert np.abs(read_image(tmp_path / "a").astype(int) - COLOURS).mean() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_white(tmp_path, mode):
    black = Image.new(mode, (9, 9), 0)
    settings = {"P": {"transparency": 0}, "RGB": {"transparency": (0, 0, 0)}}.get(mode, {})
    (tmp_path / "a.png").write_bytes(encode(black, "PNG", **settings))

    assert (read_image(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_label_maps_of_few_bits_keep_their_numbers(tmp_path, bits):
    labels = (NUMBERS % 2**bits).astype(np.uint8)
    rows = np.packbits((labels[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1, axis=None).tobytes()
    (tmp_path / "a.png").write_bytes(png(SIDE, SIDE, depth=bits, kind=0, rows=rows))

    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)
    assert read_image(tmp_path / "a.png").max() == 255


def test_of_a_mask_with_soft_edges_counts_half(tmp_path):
    soft = np.zeros((SIDE, SIDE), np.uint8)
    soft[8:24, 8:24] = 255
    soft[7, 8:24], soft[24, 8:24] = 100, 200
    Image.fromarray(soft).save(tmp_path / "soft.png")
    Image.fromarray(soft // 2).save(tmp_path / "numbers.png")
    blurred = np.where(soft == 255, 90, soft)
    blurred[0, 0] = 255
    Image.fromarray(blurred).save(tmp_path / "blurred.png")

    with noting_repairs() as repairs:
        assert read_mask(tmp_path / "soft.png").sum() == 17 * 16
    assert "soft edges" in str(*repairs)
    assert read_mask(tmp_path / "numbers.png").sum() == 18 * 16
    with pytest.raises(BadEntry, match="between 0 and 255"):
        read_mask(tmp_path / "blurred.png")


def test_label_maps_with_a_palette_or_16_bits_keep_their_numbers(tmp_path):
    Image.fromarray((NUMBERS % 256).astype(np.uint8)).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(NUMBERS.astype(np.uint16)).save(tmp_path / "deep.png")

    assert np.array_equal(read_label_map(tmp_path / "palette.png"), NUMBERS % 256)
    assert np.array_equal(read_label_map(tmp_path / "deep.png"), NUMBERS)


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [("L", "JPEG", "JPEG image, which does not keep"), ("RGB", "WEBP", "WEBP image"), ("RGB", "PNG", "one channel")],
)
def test_label_maps_that_lose_their_numbers_are_refused(tmp_path, mode, kind, message):
    Image.fromarray((NUMBERS % 256).astype(np.uint8)).convert(mode).save(tmp_path / "a.png", kind)

    with pytest.raises(BadEntry, match=message):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_marker_is_whole(tmp_path, progressive):
    data = encode(COLOURS, "JPEG", progressive=progressive)
    (tmp_path / "whole.jpg").write_bytes(data)
    expected = read_image(tmp_path / "whole.jpg")

    for missing in (1, 2):
        (tmp_path / "a.jpg").write_bytes(data[:-missing])
        with noting_repairs() as repairs:
            assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)
        assert [repair.reason for repair in repairs] == ["the JPEG lacks its end marker"]
    for missing in (3, 4, 10, 100, len(data) // 2):
        (tmp_path / "a.jpg").write_bytes(data[:-missing])
        with pytest.raises(BadEntry, match="damaged"):
            read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_progressive_jpeg_that_ends_between_two_scans_is_cut_off(tmp_path, mode):
    data = encode(Image.fromarray(COLOURS).convert(mode), "JPEG", progressive=True)
    starts = [found.start() for found in re.finditer(b"\xff\xda", data)]
    path = tmp_path / "cut.jpg"
    for start in starts[1:]:
        path.write_bytes(data[:start])

        with pytest.raises(BadEntry, match="cut off"):
            read_image(path)


def test_a_photograph_of_a_phone_is_read(tmp_path):
    """Several images in one file, a thumbnail in the EXIF data, a film behind the end."""
    image = Image.fromarray(COLOURS)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[image], exif=exif)
    film = np.random.default_rng(0).integers(0, 256, 2**23).astype(np.uint8).tobytes()
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + film)

    assert film.count(b"\xff\xda") > 100
    assert read_image(tmp_path / "a.jpg").shape == (320, 240, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])

    red, green, blue = open_image(tmp_path / "a").convert("RGB").getpixel((4, 4))

    assert red > 200 and green < 50 and blue < 50
