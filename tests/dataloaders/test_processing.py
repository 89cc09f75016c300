"""Pictures are read and resized as the models saw them in training."""

import numpy as np
import pytest
import torch
from PIL import Image

from groundscore.annotations.images import check_image, read_image
from groundscore.errors import UserError
from model.backbones.llava import LlavaPreparation
from model.decoders.sam import SamPreparation
from model.images import fitted_size

ORIENTATION = 0x0112


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (37, 91), (20, 20), (33, 500), (31, 40)])
def test_centre_cropped_images_equal_those_of_transformers(size):
    from transformers import CLIPImageProcessorPil

    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False
    )
    rgb = picture(*size)

    ours, geometry = LlavaPreparation(32, (2, 2))(rgb)

    expected = torch.as_tensor(np.asarray(theirs(rgb)["pixel_values"][0]))
    assert ours.dtype == torch.uint8
    assert geometry.size == (32, 32) and geometry.window[2] == geometry.window[3] == min(size)
    assert torch.equal(ours, expected.to(torch.uint8))


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (1, 64), (300, 200)])
def test_the_longest_side_fills_the_square_of_sam(size):
    ours, geometry = SamPreparation(64)(picture(*size))

    part = geometry.size
    assert max(part) == 64
    assert ours.shape == (3, 64, 64)
    assert not ours[:, part[0] :].any()
    assert not ours[:, :, part[1] :].any()


def test_sides_are_rounded_half_up():
    assert fitted_size(480, 640, 1024) == (768, 1024)
    assert fitted_size(427, 640, 336) == (224, 336)
    assert fitted_size(1, 50, 20) == (1, 20)


def test_padded_clip_images_show_the_whole_picture():
    rgb = np.full((20, 40, 3), 200, np.uint8)

    ours, geometry = LlavaPreparation(32, (2, 2), padded=True)(rgb)

    assert (geometry.size, geometry.window) == ((16, 32), (0, 0, 40, 40))
    assert (ours[:, :16] == 200).all()
    assert not ours[:, 16:].any()


def test_a_rotated_photograph_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(picture(20, 30)).save(tmp_path / "photo.png", exif=exif)

    assert read_image(tmp_path / "photo.png").shape == (30, 20, 3)
    assert read_image(tmp_path / "photo.png", size=(20, 30)).shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.fromarray(picture(8, 9)).convert(mode).save(path)

    image = read_image(path)

    assert image.shape == (8, 9, 3)
    assert image.dtype == np.uint8


def test_sixteen_bit_greys_are_scaled(tmp_path):
    Image.fromarray(np.full((4, 5), 32768, np.uint16)).save(tmp_path / "deep.png")

    assert (read_image(tmp_path / "deep.png") == 128).all()


def test_a_picture_of_another_size_than_its_annotations_is_refused(tmp_path):
    Image.fromarray(picture(8, 9)).save(tmp_path / "a.png")

    with pytest.raises(UserError, match="its annotations are for 10 × 9"):
        read_image(tmp_path / "a.png", size=(10, 9))


def test_bad_files_are_named(tmp_path):
    Image.fromarray(picture(200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:9000])
    (tmp_path / "text.jpg").write_text("not found")
    Image.fromarray(picture(1, 500)).save(tmp_path / "strip.png")

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


def test_arrays_that_are_no_pictures_are_refused():
    for array in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UserError):
            check_image(array)
