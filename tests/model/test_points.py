"""READ's points: where they lie on the image, for a CLIP that sees the whole image and for one that sees its centre."""

import pytest
import torch

from checkpoints import load_model, save_model
from dataloaders.batching.batch import Geometry
from dataloaders.batching.collate import Collator
from model.images import centre_window
from model.points import INSIDE, NEITHER, OUTSIDE, PointRule, points_on_image, refine_in_pixels
from tests.tiny import tiny_model, tiny_samples

GRID = 8


def geometry(size: tuple[int, int], *, cropped: bool, grid: tuple[int, int] = (GRID, GRID)) -> Geometry:
    """A grid over the image's centre square, or over the image padded to a square."""
    window = centre_window(size) if cropped else (0, 0, max(size), max(size))
    return Geometry((1, 1), window, not cropped, grid)


def peak(row: int, column: int) -> torch.Tensor:
    """Similarities [1, P] with one clear maximum on the grid, and one clear minimum in its corner."""
    scores = torch.full((1, GRID, GRID), 5.0)
    scores[0, row, column], scores[0, 0, 0] = 10.0, 0.0
    return scores.flatten(1)


@pytest.mark.parametrize("size", [(80, 80), (80, 200), (200, 80)])
def test_a_peak_in_the_crop_lies_in_the_centre_square(size):
    """Cell (2, 5) of an 8 x 8 grid over the centre square of 80 pixels is 10 pixels wide."""
    points, labels = points_on_image(peak(2, 5), geometry(size, cropped=True), size, PointRule())
    top, left = (size[0] - 80) // 2, (size[1] - 80) // 2
    assert labels[0, 0] == INSIDE
    assert torch.allclose(points[0, 0], torch.tensor([left + 55.0, top + 25.0]), atol=2)


@pytest.mark.parametrize("size", [(160, 160), (80, 160), (160, 80)])
def test_a_peak_on_the_padded_square_lies_on_the_whole_image(size):
    """The longer side of 160 pixels fills the grid: a cell is 20 pixels wide."""
    points, labels = points_on_image(peak(2, 2), geometry(size, cropped=False), size, PointRule())
    assert labels[0, 0] == INSIDE
    assert torch.allclose(points[0, 0], torch.tensor([50.0, 50.0]), atol=4)


@pytest.mark.parametrize("size", [(80, 160), (160, 80), (33, 160), (2, 160)])
@pytest.mark.parametrize("cropped", [True, False], ids=["cropped", "padded"])
def test_every_point_lies_where_clip_looked(size, cropped):
    scores = torch.randn(3, GRID * GRID, generator=torch.Generator().manual_seed(0))
    points, _ = points_on_image(scores, geometry(size, cropped=cropped), size, PointRule(count=1000))
    low, high = points.amin(dim=(0, 1)), points.amax(dim=(0, 1))
    side = min(size)
    left, top = ((size[1] - side) / 2, (size[0] - side) / 2) if cropped else (0, 0)
    right, bottom = (left + side, top + side) if cropped else (size[1], size[0])
    assert low[0] >= left and low[1] >= top and high[0] <= right and high[1] <= bottom
    rows = GRID if cropped or size[0] >= size[1] else max(1, int(GRID * size[0] / size[1] + 0.5))
    columns = GRID if cropped or size[1] >= size[0] else max(1, int(GRID * size[1] / size[0] + 0.5))
    assert points.shape == (3, rows * columns, 2)


def test_the_rule_decides_how_many_and_of_which_kind():
    scores = torch.arange(GRID * GRID, dtype=torch.float32).view(1, -1)
    points, labels = points_on_image(
        scores, geometry((80, 80), cropped=True), (80, 80), PointRule(count=20, positive=0.9, negative=0.1)
    )
    assert points.shape == (1, 20, 2)
    assert labels[0].tolist() == [INSIDE] * 7 + [OUTSIDE] * 7 + [NEITHER] * 6
    coarse, _ = points_on_image(scores, geometry((80, 80), cropped=True), (80, 80), PointRule(down_sample=2))
    assert coarse.shape == (1, 16, 2)


def test_the_settings_are_saved_with_the_checkpoint_and_used(tmp_path):
    settings = {"read_num_points": 3, "read_t_pos": 0.7, "read_t_neg": 0.3, "read_down_sample": 2}
    model, processor = tiny_model("READ", **settings)
    save_model(model, processor, tmp_path / "saved")
    again, _, _ = load_model(tmp_path / "saved")
    assert {name: getattr(again.config, name) for name in settings} == settings
    batch = Collator(processor)(tiny_samples())
    images = again.encode_images(batch)
    states = again.target_states(batch, images, again.read(batch, images))
    sparse = again.system.prompt(again, states, batch, "last").sparse
    assert [tuple(each.shape) for each in sparse] == [(3, 5, 32), (1, 5, 32)]  # 3 points, one of padding, the text


def test_an_object_off_the_centre_gets_its_points():
    """READ's published setting: a 24 × 24 grid made coarser by 2, over the centre square of a 640 × 480 image."""
    scores = torch.zeros(1, 24, 24)
    column, row = (205 - 80) // 20, 250 // 20  # cells of 20 pixels; the crop begins at x = 80
    scores[0, row - 1 : row + 1, column - 1 : column + 1] = 10.0
    rule = PointRule(count=30, down_sample=2, space="pixel")
    place = geometry((480, 640), cropped=True, grid=(24, 24))
    points, labels = points_on_image(scores.flatten(1), place, (480, 640), rule)
    inside = points[labels == INSIDE]
    assert len(inside) and (inside - torch.tensor([205.0, 250.0])).abs().max() <= 40


def test_points_refined_in_pixels_follow_the_formula():
    """The mean over all pixels, weighed by exp(-distance²) times the softmax of the whole map."""
    maps = torch.rand(2, 17, 23, generator=torch.Generator().manual_seed(1))
    points = torch.tensor([[[0.2, 0.9], [22.9, 16.9], [11.5, 8.2]], [[3.0, 16.0], [22.0, 0.0], [9.9, 9.9]]])
    y, x = torch.meshgrid(torch.arange(17.0), torch.arange(23.0), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).flatten(0, 1)
    for each, starts, found in zip(maps, points.trunc(), refine_in_pixels(maps, points)):
        for start, point in zip(starts, found):
            weights = (-(pixels - start).square().sum(-1)).exp() * each.flatten().softmax(0)
            expected = (weights.unsqueeze(1) * pixels).sum(0) / weights.sum()
            torch.testing.assert_close(point, expected)
