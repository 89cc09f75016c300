"""What the pixels of image files mean: images, label maps and masks of every kind."""

import re

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from groundscore.annotations.bad_entries import BadEntry, noting_repairs
from groundscore.annotations.image_files import open_image
from groundscore.annotations.images import check_image, read_image, read_reduced
from groundscore.annotations.label_maps import read_label_map, read_mask
from groundscore.errors import UserError
from tests.groundscore.annotations.image_bytes import COLOURS, encode, png

SIDE = 64
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
NUMBERS = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
ORIENTATION = 0x0112


def noise(height: int, width: int) -> np.ndarray:
    """uint8 RGB [height, width, 3]."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_rotated_photograph_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(noise(20, 30)).save(tmp_path / "photo.png", exif=exif)

    assert read_image(tmp_path / "photo.png").shape == (30, 20, 3)
    assert read_image(tmp_path / "photo.png", size=(20, 30)).shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("least", "size"),
    [(0, (600, 800)), (401, (600, 800)), (400, (300, 400)), (200, (150, 200)), (100, (75, 100)), (1, (75, 100))],
)
def test_a_jpeg_is_decoded_smaller_while_its_longer_side_keeps_enough_pixels(tmp_path, least, size):
    photo = np.zeros((600, 800, 3), np.uint8)
    photo[:300, :, 0] = 200
    path, turned, lossless = tmp_path / "a.jpg", tmp_path / "turned.jpg", tmp_path / "a.png"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(photo).save(path)
    Image.fromarray(photo).save(turned, exif=exif)
    Image.fromarray(photo).save(lossless)
    for annotated in (None, (600, 800)):
        pixels, full = read_reduced(path, size=annotated, least=least)
        assert (pixels.shape, full) == ((*size, 3), (600, 800))
        assert pixels[: size[0] // 2 - 1, :, 0].min() > 190 and pixels[size[0] // 2 + 1 :, :, 0].max() < 10
    pixels, full = read_reduced(turned, least=least)
    assert (pixels.shape, full) == ((*size[::-1], 3), (800, 600)) and pixels[:, -5:, 0].min() > 190
    pixels, full = read_reduced(turned, size=(600, 800), least=least)  # annotated as it is stored
    assert (pixels.shape, full) == ((*size, 3), (600, 800))
    assert read_reduced(lossless, least=least)[0].shape == (600, 800, 3)
    with pytest.raises(BadEntry, match="600 high and 800 wide, but its annotations are for 300 × 400"):
        read_reduced(path, size=(300, 400), least=least)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(noise(8, 9)).convert(mode).save(path)

    image = read_image(path)

    assert image.shape == (8, 9, 3)
    assert image.dtype == np.uint8


def test_sixteen_bit_greys_are_scaled(tmp_path):
    Image.fromarray(np.full((4, 5), 32768, np.uint16)).save(tmp_path / "deep.png")

    assert (read_image(tmp_path / "deep.png") == 128).all()


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path):
    Image.fromarray(noise(8, 9)).save(tmp_path / "a.png")

    with pytest.raises(UserError, match="its annotations are for 10 × 9"):
        read_image(tmp_path / "a.png", size=(10, 9))


def test_bad_files_are_named(tmp_path):
    Image.fromarray(noise(200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:9000])
    (tmp_path / "text.jpg").write_text("not found")
    Image.fromarray(noise(1, 500)).save(tmp_path / "strip.png")

    for name, message in [
        ("absent.jpg", "missing"),
        ("cut.jpg", "damaged"),
        ("text.jpg", "not an image"),
        ("strip.png", "strip"),
        ("", "folder"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_arrays_that_are_no_images_are_refused():
    for array in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UserError):
            check_image(array)


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
