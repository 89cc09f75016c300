"""Reading what visitors send."""

import io

import numpy as np
import pytest
from PIL import Image

from dashboard.context import read_upload
from groundscore.errors import UserError
from inference.limits import Limits, check_prompt

LIMITS = Limits(upload_mb=1, pixels=10_000, prompt=10, mask_pixels=20_000)


def save(path, *size, mode="RGB"):
    Image.new(mode, size).save(path)
    return str(path)


def test_a_picture_keeps_its_size_and_a_large_one_gets_fewer_masks(tmp_path):
    image = read_upload(save(tmp_path / "a.png", 100, 50), LIMITS)
    assert image.shape == (50, 100, 3) and image.dtype == np.uint8
    assert [LIMITS.targets_of(size) for size in ((50, 100), (10, 10), (100, 100), (10_000, 10_000))] == [4, 32, 2, 1]


def test_a_picture_of_any_mode_is_read(tmp_path):
    for mode in ("RGB", "RGBA", "L", "P", "CMYK", "1"):
        path = save(tmp_path / f"{mode}.tif", 30, 20, mode=mode)
        assert read_upload(path, LIMITS).shape == (20, 30, 3)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda folder: None, "choose an image"),
        (lambda folder: str(folder / "gone.png"), "upload it again"),
        (lambda folder: str(folder), "is a folder"),
        (lambda folder: save(folder / "big.png", 200, 200), "200 × 200 pixels, more than 10000"),
        (lambda folder: save(folder / "strip.png", 4000, 2), "strip"),
    ],
)
def test_what_is_not_a_usable_picture_is_refused_without_naming_its_place(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as error:
        read_upload(make(tmp_path), LIMITS)
    assert str(tmp_path) not in str(error.value)


def truncated():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize(
    "content,message",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "The image is a HEIC image, .*convert it to JPEG or PNG"),
        (truncated(), "The image is damaged .it is cut off"),
        (b"%PDF-1.7\n", "The image is a PDF document.* save it as JPEG or PNG"),
        (b"no picture at all", "The image is not an image of a format that is read"),
        (b"", "The image is empty"),
    ],
)
def test_a_file_that_is_no_picture_is_said_in_one_line(tmp_path, content, message):
    path = tmp_path / "IMG_0001.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{message}") as error:
        read_upload(str(path), LIMITS)
    assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(bytes(2 << 20))
    with pytest.raises(UserError, match="larger than 1 MB"):
        read_upload(str(path), LIMITS)


def test_a_prompt_is_trimmed_and_bounded():
    assert check_prompt("  kite \n", LIMITS) == "kite"
    for text in (None, "", " \n"):
        with pytest.raises(UserError, match="type what"):
            check_prompt(text, LIMITS)
    with pytest.raises(UserError, match="11 characters; at most 10"):
        check_prompt("x" * 11, LIMITS)
