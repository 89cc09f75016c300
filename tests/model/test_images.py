"""Images are prepared as the models saw them in training."""

import numpy as np
import pytest
import torch

from dataloaders.batching.batch import Geometry
from model.backbones.llava import LlavaPreparation
from model.decoders.sam import SamPreparation
from model.images import bilinear_line, fill_and_crop, fit_and_pad, fitted_size, stretch, twice_bilinear_line
from model.similarity import map_on_image


def noise(height: int, width: int) -> np.ndarray:
    """uint8 RGB [height, width, 3]."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (37, 91), (20, 20), (33, 500), (31, 40)])
def test_centre_cropped_images_equal_those_of_transformers(size):
    from transformers import CLIPImageProcessorPil

    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False
    )
    rgb = noise(*size)

    ours, geometry = LlavaPreparation(32, (2, 2))(rgb)

    expected = torch.as_tensor(np.asarray(theirs(rgb)["pixel_values"][0]))
    assert ours.dtype == torch.uint8
    assert geometry.size == (32, 32) and geometry.window[2] == geometry.window[3] == min(size)
    assert torch.equal(ours, expected.to(torch.uint8))


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (1, 64), (300, 200)])
def test_the_longest_side_fills_the_square_of_sam(size):
    ours, geometry = SamPreparation(64)(noise(*size))

    part = geometry.size
    assert max(part) == 64
    assert ours.shape == (3, 64, 64)
    assert not ours[:, part[0] :].any()
    assert not ours[:, :, part[1] :].any()


def test_sides_are_rounded_half_up():
    assert fitted_size(480, 640, 1024) == (768, 1024)
    assert fitted_size(427, 640, 336) == (224, 336)
    assert fitted_size(1, 50, 20) == (1, 20)


def test_padded_clip_images_show_the_whole_image():
    rgb = np.full((20, 40, 3), 200, np.uint8)

    ours, geometry = LlavaPreparation(32, (2, 2), padded=True)(rgb)

    assert (geometry.size, geometry.window) == ((16, 32), (0, 0, 40, 40))
    assert (ours[:, :16] == 200).all()
    assert not ours[:, 16:].any()


@pytest.mark.parametrize(
    "cells, between, kept, pixels", [(8, 336, 300, 140), (64, 256, 230, 157), (16, 10, 7, 3), (1, 5, 5, 9)]
)
def test_a_product_with_lines_resizes_as_torch_does(cells, between, kept, pixels):
    def resized(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return torch.nn.functional.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]

    torch.manual_seed(0)
    values = torch.rand(cells, 12)
    once, columns = (bilinear_line(length, to, values.device) for length, to in ((cells, between), (12, 30)))
    twice = twice_bilinear_line(cells, between, kept, pixels, values.device)

    torch.testing.assert_close(once @ values @ columns.T, resized(values, (between, 30)))
    torch.testing.assert_close(twice @ values, resized(resized(values, (between, 12))[:kept], (pixels, 12)))


@pytest.mark.parametrize("prepare", [fill_and_crop, fit_and_pad, stretch])
@pytest.mark.parametrize("full", [(201, 303), (640, 427), (200, 200)])
def test_a_map_of_an_image_that_was_decoded_smaller_lies_where_that_of_the_full_one_does(prepare, full):
    small = tuple(-(-side // 2) for side in full)
    torch.manual_seed(0)
    scores = torch.rand(2, 16)
    expected, found = (
        map_on_image(scores, geometry, full)
        for geometry in (
            prepare(noise(*full), 64, (4, 4))[1],
            prepare(noise(*small), 64, (4, 4))[1].on_full_image(small, full),
        )
    )
    assert found.shape == expected.shape == (2, *full)
    reach = expected.diff(dim=1).abs().max() + expected.diff(dim=2).abs().max()  # of a pixel, down and to the right
    inside = (expected > 0) & (found > 0)  # where the window begins, a pixel is the whole height of the map
    assert (expected - found).abs()[inside].max() <= 3 * reach
    assert ((expected > 0) == (found > 0)).float().mean() > 0.98


def test_tiles_are_chosen_by_the_size_of_the_full_image():
    tiles = Geometry((64, 64), (0, 0, 64, 64), False, (4, 4), cell_tokens=torch.arange(16))
    with pytest.raises(ValueError, match="tiles are chosen by the size of the full image"):
        tiles.on_full_image((64, 64), (128, 128))
