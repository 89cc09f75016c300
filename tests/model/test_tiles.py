"""Images in tiles: the pixels of transformers' own processors, and every cell of the grid where its patch lies."""

import numpy as np
import pytest
import torch
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from dataloaders.batching.batch import Geometry, ImageGroup, PreparedImages, place_images
from groundscore.errors import UserError
from model.backbones.tiles import AnyresPreparation, LineBreak, StretchedTiles, Tiling, checked_canvases
from model.points import PointRule, points_on_image
from model.similarity import map_on_image
from tests.tiny import picture

SIDE, CELL = 30, 4  # a tile has 7 cells along a side, and two pixels that are in none
TILING = Tiling(SIDE, CELL)
CANVASES = [[SIDE * rows, SIDE * columns] for rows in range(1, 4) for columns in range(1, 4)]
SIZES = [(48, 48), (40, 60), (20, 80), (80, 20), (31, 53), (53, 31), (100, 101), (201, 50), (7, 9)]


def anyres(most_tiles: int | None = None) -> AnyresPreparation:
    return AnyresPreparation(TILING, checked_canvases(CANVASES, SIDE), most_tiles)


STRETCHED = StretchedTiles(TILING, 1, 12)
PROCESSORS = {
    "llava_onevision": (
        anyres(),
        LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=CANVASES),
    ),
    "llava_next": (
        anyres(),
        LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=CANVASES
        ),
    ),
    "internvl": (STRETCHED, GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True)),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_those_of_transformers(name, size):
    prepare, processor = PROCESSORS[name]
    rgb = picture(1, *size)
    theirs = processor(images=[rgb], return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values"]
    theirs = theirs if name == "internvl" else theirs[0]
    assert prepare(rgb)[0].tolist() == theirs.tolist()


def test_internvl_takes_as_many_tiles_as_it_is_allowed():
    for fewest, most in ((1, 1), (1, 4), (2, 6), (3, 12)):
        processor = GotOcr2ImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=fewest, max_patches=most
        )
        for size in SIZES:
            pixels, _ = StretchedTiles(TILING, fewest, most)(picture(1, *size))
            assert len(pixels) == processor.get_number_of_image_patches(*size)


# --- where the cells lie ---------------------------------------------------------------------------------------------


def ramp(height: int, width: int) -> np.ndarray:
    """Every pixel says where it is: (row + ½, column + ½, 255), smooth and below 256."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 255)], axis=-1).astype(np.uint8)


def patch_means(pixels: torch.Tensor) -> torch.Tensor:
    """[tiles, p², 3]: the mean of the pixels of every cell's patch, as an encoder would see them."""
    whole = pixels[..., : TILING.cells * CELL, : TILING.cells * CELL].float()
    return torch.nn.functional.avg_pool2d(whole, CELL).flatten(2).transpose(1, 2)


def tokens_of(prepare, pixels: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The tokens [geometry.tokens, 3] that an encoder of means gives."""
    if isinstance(prepare, StretchedTiles):
        return patch_means(pixels).flatten(0, 1)
    groups, line_break = [ImageGroup([0], pixels, [geometry])], LineBreak(torch.nn.Parameter(torch.zeros(3)))
    return prepare.pack([patch_means(pixels).unsqueeze(0)], groups, line_break)[0][0]


PREPARATIONS = {"anyres": anyres(), "anyres, at most 2 tiles": anyres(2), "InternVL": STRETCHED}


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cell_lies_where_its_patch_shows_the_image(name, size):
    prepare = PREPARATIONS[name]
    pixels, geometry = prepare(ramp(*size))
    tokens = tokens_of(prepare, pixels, geometry)
    assert len(tokens) == geometry.tokens and len(geometry.cell_tokens) == geometry.cells
    seen = tokens[geometry.cell_tokens].unflatten(0, geometry.grid)  # [h, w, 3]
    centres = torch.stack(torch.meshgrid(geometry.row_centres, geometry.column_centres, indexing="ij"), dim=-1)
    shows_image_alone = seen[..., 2] > 254
    assert shows_image_alone.any()
    error = (seen[..., :2] + 0.5 - centres)[shows_image_alone].abs().max()
    assert error < 1, f"{error} pixels off"


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.parametrize("size", SIZES[:-1], ids=str)  # the last has fewer pixels than cells
def test_the_map_of_one_lit_cell_is_brightest_on_its_patch(name, size):
    _, geometry = PREPARATIONS[name](ramp(*size))
    rows, columns = geometry.grid
    for row, column in {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)}:
        scores = torch.zeros(1, geometry.cells + 3)  # three cells of padding follow
        scores[0, row * columns + column] = 1
        (found,) = map_on_image(scores, geometry, size)
        for line, centres, lit in (
            (found.amax(dim=1), geometry.row_centres, row),
            (found.amax(dim=0), geometry.column_centres, column),
        ):
            brightest = (line > 0.999 * line.max()).nonzero().float() + 0.5
            inside = centres[lit].clamp(0.5, len(line) - 0.5)
            assert (brightest - inside).abs().min() <= 1


@pytest.mark.parametrize("name", PREPARATIONS)
def test_an_even_map_covers_the_whole_image(name):
    for size in SIZES:
        _, geometry = PREPARATIONS[name](ramp(*size))
        found = map_on_image(torch.full((2, geometry.cells), 0.5), geometry, size)
        torch.testing.assert_close(found, torch.full((2, *size), 0.5))


@pytest.mark.parametrize("space", ["grid", "pixel"])
@pytest.mark.parametrize("name", PREPARATIONS)
def test_points_lie_on_the_cells_that_they_were_chosen_for(name, space):
    size = (40, 60)
    _, geometry = PREPARATIONS[name](ramp(*size))
    rows, columns = geometry.grid
    scores = torch.zeros(1, geometry.cells)
    scores[0, (rows // 2) * columns + columns // 2] = 1
    points, labels = points_on_image(scores, geometry, size, PointRule(count=3, space=space))
    assert labels[0, 0] == 1
    lit = torch.stack([geometry.column_centres[columns // 2], geometry.row_centres[rows // 2]])
    cell = torch.stack([geometry.column_centres.diff().max(), geometry.row_centres.diff().max()])
    assert ((points[0, 0] - lit).abs() <= cell).all()


def test_cells_are_found_among_the_tokens_of_a_row():
    """The whole's tokens and line breaks are no cells."""
    prepared = [anyres()(ramp(40, 60)), anyres()(ramp(20, 80)), STRETCHED(ramp(40, 60))]
    geometries = [geometry for _, geometry in prepared]
    length = max(geometry.tokens for geometry in geometries) + 5
    images = PreparedImages.of(prepared)
    placed = place_images(images, [3, 0, 4], [0, 1, 2], length)
    for row, (geometry, start) in enumerate(zip(geometries, (3, 0, 4), strict=True)):
        cells = placed["cell_positions"][row] - row * length - start
        assert cells[: geometry.cells].tolist() == geometry.cell_tokens.tolist()
        assert (cells[geometry.cells :] == geometry.cell_tokens[0]).all()


# --- bad input -------------------------------------------------------------------------------------------------------


def test_an_image_that_no_tile_can_show_is_refused():
    with pytest.raises(UserError, match="an image of 300 x 4 pixels is too thin"):
        AnyresPreparation(Tiling(28, 14), ((28, 56),))(picture(1, 4, 300))


@pytest.mark.parametrize("canvas", [[30, 45], [0, 30], [30], ["30", 30]], ids=str)
def test_a_canvas_that_is_not_of_whole_tiles_is_refused(canvas):
    with pytest.raises(UserError, match="image_grid_pinpoints: .* should be two multiples of 30"):
        checked_canvases([[30, 30], canvas], 30)
