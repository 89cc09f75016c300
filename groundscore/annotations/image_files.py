"""Opening image files that nobody vouches for: which formats, how many pixels, how much work.

Everything in the project that reads an image file does it through `open_image`. A format that is not listed here is not
even looked at by Pillow, which starts Ghostscript for PostScript, for example. What makes an image costly (pixels,
scans, tiles, metadata that refers to the same bytes over and over) is counted before anything is decoded.
"""

import contextlib
import io
import os
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from groundscore.annotations.bad_entries import BadEntry, note_repair
from groundscore.errors import UserError
from groundscore.reading import read_bytes

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
LOSSLESS = ("PNG", "BMP", "GIF", "TIFF")  # these keep the numbers of label maps and masks
MAX_ASPECT = 100  # the short side fills the CLIP square, so a sliver would grow without bound
MAX_PIXELS = "UGROUND_MAX_PIXELS"
WHERE = "`python -m groundscore layout` says where images go"
_DEFAULT_PIXELS = 2**26  # 8192 × 8192
_MEGABYTES = 512  # of a file
_MAX_SCANS = 32  # of a JPEG; encoders write about ten
_MAX_EXIF_SEGMENTS = 16
_MAX_COMMENT = 2**20

_DEPTHS = (8, 10, 12, 14, 16)  # bits of sensors and scanners
_PHOTOMETRIC, _SUBSAMPLING = 262, 530  # tags of TIFF
_YCBCR, _HALVED = 6, (2, 2)  # a photometric interpretation, and the subsampling where none is stated

_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"heif", b"mif1", b"msf1")  # brands in a file's head
_OTHER_KINDS = {
    b"%pdf": "a PDF document",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file, such as an SVG drawing",
    b"8bps": "a Photoshop file",
}

FACTOR, SIZE = "factor", "size"
_FACTORS = {"L;2": 85, "L;4": 17}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])", re.DOTALL)  # of a segment, or the end
_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_FRAMES = (0xC0, 0xC1, 0xC2)  # sequential and progressive; their segments name the components
_END_MARKER = b"\xff\xd9"
_TAG_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # how TIFF files and EXIF data begin, and their byte orders
_TAG_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)  # bytes of a value, by type

if MAX_PIXELS in os.environ:
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit of pixels is checked
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of metadata that is not used here


def open_image(
    path: Path,
    formats: Sequence[str] = FORMATS,
    *,
    pixels: int | None = None,
    content: bytes | None = None,
    missing: str = WHERE,
    least: int | None = None,
) -> Image.Image:
    """The decoded image in a file, its first frame, neither rotated nor converted; colours of 16 bits have 8, by the
    depth that they fill (`usual_top`).

    `info[FACTOR]` of the image is what Pillow has multiplied the greys of a file of 2 or 4 bits by.
    formats: those of `FORMATS` that it may have. pixels: how many it may have; None: what `UGROUND_MAX_PIXELS` says.
    content: the bytes of an image that is written within the file, in base64 for example.
    missing: what to say when there is no such file.
    least: decode a JPEG at an eighth, a quarter or a half of its size where its longer side keeps as many pixels, which
        reads all of the file in half the time; `info[SIZE]` is the size (height, width) of the file's image.
    Every way in which a file can be bad is a `BadEntry` that names it.
    """
    with _naming(path):
        data = _read(path, missing) if content is None else content
        _check_metadata(data)
        image = _open(data, path, formats, pixels)
        raw_mode = _raw_mode(image)
        factor = _FACTORS.get(raw_mode, 1)
        size = (image.height, image.width)
        if least is not None:
            by = next((by for by in (8, 4, 2) if max(size) >= by * least), 1)
            image.draft(image.mode, (image.width // by, image.height // by))
        try:
            if _is_plain_ycbcr(image):
                _load_plain_ycbcr(image)
            image.load()
        except OSError:
            if image.format != "JPEG" or _END_MARKER in data[-16:]:
                raise
            image = _without_end(data)
            note_repair(str(path), "the JPEG lacks its end marker")
        if ";16" in raw_mode and image.mode in ("RGB", "RGBA"):
            _keep_low_bits(image, data)
        image.info |= {FACTOR: factor, SIZE: size}
        return image


def upright(image: Image.Image, path: Path) -> Image.Image:
    """The image turned as its EXIF orientation says. path: its file, for errors."""
    with _naming(path):
        turn = _TURNS.get(_orientation(image))
        return image if turn is None else image.transpose(turn)


def is_turned(image: Image.Image, path: Path) -> bool:
    """Whether the image is as high as its file's image is wide, once it is upright. path: its file, for errors."""
    with _naming(path):
        return _orientation(image) in (5, 6, 7, 8)


def read_sizes(path: Path) -> set[tuple[int, int]]:
    """(height, width) of an image as it is stored and as it is upright, without decoding it."""
    with _naming(path):
        data = _read(path, WHERE)
        _check_metadata(data)
        image = _open(data, path, FORMATS, None)
        stored = (image.height, image.width)
        return {stored, stored[::-1] if is_turned(image, path) else stored}


def _read(path: Path, missing: str) -> bytes:
    return read_bytes(path, missing=missing, megabytes=_MEGABYTES)


def _orientation(image: Image.Image) -> int | None:
    _check_tags(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    return image.getexif().get(ExifTags.Base.Orientation)


def check_size(height: int, width: int, source: str, *, pixels: int | None = None) -> None:
    """Refuse dimensions that no image of ours has, before memory is taken for them."""
    if height < 1 or width < 1:
        raise UserError(f"{source} is empty ({height} × {width} pixels)")
    most = _most_pixels() if pixels is None else pixels
    if height * width > most:
        remedy = f", or set {MAX_PIXELS}" if pixels is None else ""
        raise UserError(f"{source} has {height} × {width} pixels, more than {most}; make it smaller first{remedy}")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(f"{source} is a strip of {height} × {width} pixels; crop it to less than {MAX_ASPECT} : 1")


def _most_pixels() -> int:
    text = os.environ.get(MAX_PIXELS, str(_DEFAULT_PIXELS))
    if not text.isdecimal():
        raise UserError(f"{MAX_PIXELS}={text} should be a number of pixels")
    return int(text)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What is raised inside the `with` block becomes a `BadEntry` that names the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadEntry(f"{path} {error}", file=str(path)) from error
    except UserError as error:
        named = str(path) in str(error)
        raise BadEntry(f"{error}" if named else f"image {path} is refused: {error}", file=str(path)) from error
    except Image.DecompressionBombError as error:
        raise BadEntry(f"image {path} has too many pixels ({error})", file=str(path)) from error
    except MemoryError as error:
        raise BadEntry(f"image {path} takes more memory than there is", file=str(path)) from error
    except Exception as error:  # a damaged file fails in any of Pillow's operations
        raise BadEntry(f"image {path} is damaged ({error}); download it again", file=str(path)) from error


def _open(data: bytes, path: Path, formats: Sequence[str], pixels: int | None) -> Image.Image:
    """The image, not decoded yet, its format and size checked."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise UnidentifiedImageError(_what_else(data, formats)) from None
    check_size(image.height, image.width, str(path), pixels=pixels)
    covered = sum((right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in image.tile)
    if covered > 2 * len(image.getbands()) * image.width * image.height:
        raise UserError("it has far more strips or tiles than it has pixels for")
    return image


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def usual_top(highest: float) -> float:
    """The largest value of the smallest usual depth that holds whole numbers up to `highest`."""
    return 2.0 ** next(depth for depth in _DEPTHS if highest < 2**depth) - 1


def _keep_low_bits(image: Image.Image, data: bytes) -> None:
    """Pillow keeps the upper 8 of 16 bits a colour, of which cameras of 10 to 14 bits leave some at 0."""
    upper = image.getextrema()[:3]
    if max(high for _, high in upper) >= 2 ** (_DEPTHS[-2] - 8):
        return
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape != (image.height, image.width, len(image.mode)):
        raise OSError("its colours of 16 bits use the lowest bits only; save it with 8 bits a colour")
    order = (2, 1, 0, 3)[: len(image.mode)]
    tops = np.array([usual_top(values[..., :3].max())] * 3 + [usual_top(values[..., -1].max())])[: len(order)]
    image.paste(Image.fromarray(np.rint(values[..., order] * (255 / tops)).astype(np.uint8)))


def _is_plain_ycbcr(image: Image.Image) -> bool:
    """Whether it is an uncompressed TIFF of YCbCr, in which Pillow expects four bytes a pixel."""
    plain = image.format == "TIFF" and bool(image.tile) and image.tile[0].codec_name == "raw"
    return plain and image.tag_v2.get(_PHOTOMETRIC) == _YCBCR


def _load_plain_ycbcr(image: Image.Image) -> None:
    """Decode it as RGB."""
    if image.tag_v2.get(_SUBSAMPLING, _HALVED) != (1, 1):
        raise OSError("it is an uncompressed TIFF of subsampled YCbCr, which is not read; save it as RGB or PNG")
    image.tile = [tile._replace(args=("RGB", *tile.args[1:])) for tile in image.tile]
    image.load()
    image.paste(Image.merge("YCbCr", image.split()).convert("RGB"))


def _what_else(data: bytes, formats: Sequence[str]) -> str:
    """What to say of a file that is in none of the formats."""
    if not data:
        return "is an empty file; save or download it again"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return (
            "is a HEIC image, as phones save them; convert it to JPEG or PNG first: share or export it as JPEG, or use "
            "heif-convert FILE x.jpg"
        )
    for start, kind in _OTHER_KINDS.items():
        if data[:400].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(start):
            return f"is {kind}, not an image of pixels; save it as JPEG or PNG first"
    if data[4:8] == b"ftyp" and b"avif" not in data[8:40]:
        return "is a video; save one of its frames as JPEG or PNG first"
    names = ", ".join(formats)
    with contextlib.suppress(UnidentifiedImageError):
        other = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name not in formats])
        return f"is a {other.format} image, which does not keep every number; it should be {names}"
    return f"is not an image of a format that is read ({names}); save it as JPEG or PNG, or download it again"


def _without_end(data: bytes) -> Image.Image:
    """The JPEG in `data`, which ends without its end marker.

    Raises OSError where more than the marker is missing: what is missing would be decoded from the bytes that follow,
    so an image that depends on them is not whole.
    """
    data = data.removesuffix(b"\xff")
    ends = (b"\x55" * 64, b"\xaa" * 64)
    first, second = (Image.open(io.BytesIO(data + end + _END_MARKER), formats=["JPEG"]) for end in ends)
    first.load()
    second.load()
    if first.tobytes() != second.tobytes() or not _has_all_scans(data):
        raise OSError("it is cut off")
    return first


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a JPEG hold every bit of every coefficient; a progressive one has about ten scans, and
    looks whole, if coarse, where it ends between two of them."""
    missing: set[tuple[int, int]] = set()  # (component, coefficient)
    for marker, start, end in _jpeg_segments(data):
        content = data[start + 2 : end]
        if marker in _FRAMES:
            missing = {(component, k) for component in content[6::3] for k in range(64)}
        elif marker == _SCAN:
            count = content[0]
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            if bits & 15 == 0:  # the lowest bit is in this scan
                missing -= {
                    (component, k) for component in content[1 : 1 + 2 * count : 2] for k in range(first, last + 1)
                }
    return not missing


def _check_metadata(data: bytes) -> None:
    """Refuse what costs Pillow far more than the file's size while it opens the file."""
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data[4:8] == b"ftyp":  # AVIF, whose EXIF data may lie anywhere
        for found in re.finditer(rb"II\*\0|MM\0\*", data):
            _check_tags(data[found.start() :])
    elif data.startswith((b"II+\0", b"MM\0+")):
        raise UserError("BigTIFF files are not read; save it as TIFF or PNG")
    elif data.startswith(b"GIF8"):
        _check_gif(data)
    else:
        _check_tags(data)


def _check_jpeg(data: bytes) -> None:
    """Every scan of a JPEG goes over the whole image."""
    scans, exif = 0, []
    for marker, start, end in _jpeg_segments(data):
        if marker == _EXIF and data.startswith(b"Exif\0\0", start + 2):
            exif.append(data[start + 8 : end])
        if marker == _SCAN:
            scans += 1
            if data.count(b"\xff\xda", end) < _MAX_SCANS:
                break  # the usual case; where there are more, some may lie behind the end of the image
    if scans > _MAX_SCANS or len(exif) > _MAX_EXIF_SEGMENTS:
        raise UserError(f"it has {scans} scans and {len(exif)} segments of EXIF data; encoders write about ten and one")
    _check_tags(b"".join(exif))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of a JPEG up to its end: the marker, and where the segment's length and what follows it begin."""
    at = 2
    while (found := _JPEG_MARKER.search(data, at)) and found[1][0] != _END:
        start = found.end()
        at = start + max(2, int.from_bytes(data[start : start + 2]))
        yield found[1][0], start, at


def _check_gif(data: bytes) -> None:
    """Pillow copies a comment again for every 255 bytes of it."""
    at = 13 + (6 << (data[10] & 7) if data[10] & 128 else 0)
    comment = 0
    while data[at] == ord("!"):
        is_comment = data[at + 1] == 0xFE
        at += 2
        while size := data[at]:
            at += size + 1
            comment += size * is_comment
        at += 1
    if comment > _MAX_COMMENT:
        raise UserError(f"it has a comment of {comment} bytes")


def _check_tags(data: bytes) -> None:
    """Tags of TIFF files and EXIF data name the bytes that they hold; Pillow copies the bytes of every one."""
    order = _TAG_ORDERS.get(data[:4])
    if order is None or len(data) < 8:
        return
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack(order + "H", data[start : start + 2].ljust(2, b"\0"))
    tags = data[start + 2 : start + 2 + 12 * count]
    total = 0
    for _, kind, values, _ in struct.iter_unpack(order + "HHII", tags[: len(tags) // 12 * 12]):
        total += values * _TAG_SIZES[kind] if kind < len(_TAG_SIZES) else 0
    if total > 4 * len(data) + 2**16:
        raise UserError("its tags claim more data than the file has")
