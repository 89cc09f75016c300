"""Own data from other tools and back: every form keeps its masks, and says what it cannot carry."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundscore.commands import main
from groundscore.exchange.regions import Region, RegionImage, outlines, region
from groundscore.exchange.tools import READABLE, TOOLS, WRITABLE, read_regions, write_regions
from groundscore.rle import as_json, decode, encode
from groundscore.splits import evaluation_set
from tests.groundscore.exchange.regions import HEIGHT, WIDTH, blob, by_name, masks_of, ring_shape, same_image, square

# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", sorted(set(READABLE) & set(WRITABLE) - {"parquet"}))
def test_what_is_written_is_recognised_and_read_back_pixel_for_pixel(form, images, tmp_path):
    out = tmp_path / "data/custom/mine.jsonl" if form == "custom" else tmp_path / "out"

    write_regions(images, out, form)
    found = by_name(read_regions(out))

    assert next(one.name for one in TOOLS.values() if one.read and one.recognises(out)) == form
    assert all(same_image(image, found[Path(image.name).stem]) for image in images)


def test_a_table_has_a_row_for_each_region_pixel_for_pixel(images, tmp_path):
    write_regions(images, tmp_path / "out", "parquet")

    found = list(read_regions(tmp_path / "out"))

    expected = [(image.content, one.label, one.texts, one.mask) for image in images for one in image.regions]
    assert [
        (row.content, *(getattr(row.regions[0], key) for key in ("label", "texts", "mask"))) for row in found
    ] == expected


@pytest.mark.parametrize("form", ["coco", "labelme", "yolo", "png", "parquet"])
def test_own_data_goes_out_and_comes_back_by_two_commands(form, images, tmp_path, capsys):
    first, second = (tmp_path / name / "custom/mine.jsonl" for name in ("one", "two"))
    write_regions(images, first, "custom")

    assert main(["convert", str(first), str(tmp_path / "out"), "--to", form]) == 0
    assert main(["convert", str(tmp_path / "out"), str(second)]) == 0

    shown = capsys.readouterr().out
    assert "5 masks" in shown and 'custom|mine"' in shown
    before, after = (
        [mask for image in read_regions(path) for mask in sum(masks_of(image).values(), [])] for path in (first, second)
    )
    assert sorted(before) == sorted(after)


def test_texts_become_questions_and_come_back(images, tmp_path):
    write_regions(images, tmp_path / "data/custom/mine.jsonl", "custom")

    lines = [json.loads(line) for line in (tmp_path / "data/custom/mine.jsonl").read_text().splitlines()]
    asked = [turn["question"] for turns in lines[1]["conversations"] for turn in turns]
    assert asked == ["What flies in the sky?", "Please segment the red thing above in the image."]
    assert [turns[0]["answer"] for turns in lines[0]["conversations"]] == ["[SEG].", "[SEG] and [SEG].", "[SEG]."]
    items = evaluation_set("custom|mine", tmp_path / "data")
    assert [len(items[number].expressions) for number in range(2)] == [3, 2]

    (kite,) = by_name(read_regions(tmp_path / "data/custom/mine.jsonl"))["other"].regions
    assert (kite.label, kite.texts) == ("kite", ("What flies in the sky?", "red thing above"))


@pytest.mark.parametrize("form", ["coco", "labelme", "png", "custom"])
def test_pixels_to_ignore_are_kept(form, photo, tmp_path):
    ignored = encode(blob(5) & ~square())
    out = tmp_path / "data/custom/mine.jsonl" if form == "custom" else tmp_path / "out"

    write_regions([RegionImage(photo, photo.name, (HEIGHT, WIDTH), (region("cat", square()),), ignored)], out, form)
    (found,) = read_regions(out)

    assert found.ignore == ignored
    assert masks_of(found) == {"cat": [encode(square())["counts"]]}


@pytest.mark.parametrize("name", ["../../evil.jpg", "/evil.jpg", ".."])
def test_an_image_whose_name_leads_out_is_written_inside(name, photo, tmp_path):
    image = RegionImage(photo, name, (HEIGHT, WIDTH), (region("cat", square()),))

    write_regions([image], tmp_path / "deep/data/custom/mine.jsonl", "custom")

    inside = tmp_path / "deep/data/custom/mine"
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".jsonl" and path != photo]
    assert written and all(path.is_relative_to(inside) for path in written)


def test_images_of_one_name_from_two_folders_stay_two(photo, tmp_path):
    other = tmp_path / "b.jpg"
    Image.new("RGB", (WIDTH, HEIGHT)).save(other)
    size, cat = (HEIGHT, WIDTH), (region("cat", square()),)
    images = [
        RegionImage(photo, "x.jpg", size, cat),
        RegionImage(other, "x.jpg", size, cat),
        RegionImage(photo, "x.jpg", size, cat),
    ]

    write_regions(images, tmp_path / "data/custom/mine.jsonl", "custom")

    assert sorted(path.name for path in (tmp_path / "data/custom/mine").iterdir()) == ["x.jpg", "x_2.jpg"]


# --- outlines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [ring_shape(), square(), *(blob(seed) for seed in range(6)),
                                  np.random.default_rng(0).integers(0, 2, (15, 20), dtype=np.uint8)])  # fmt: skip
def test_outlines_filled_by_the_even_odd_rule_are_the_mask(mask):
    """Each pixel is inside where an odd number of upright edges is on its left."""
    edges = np.zeros((mask.shape[0], mask.shape[1] + 1), int)
    for ring in (ring for part in outlines(mask) for ring in (part.outer, *part.holes)):
        for (x, y), (to_x, to_y) in zip(ring, np.roll(ring, -1, axis=0)):
            if x == to_x:
                edges[min(y, to_y) : max(y, to_y), x] += 1

    assert np.array_equal(edges.cumsum(1)[:, :-1] % 2, mask)


def test_a_hole_belongs_to_its_part():
    first, second = sorted(outlines(ring_shape()), key=lambda part: len(part.holes))

    assert (len(first.holes), len(second.holes)) == (0, 1)
    assert first.outer.tolist() == [[60, 5], [75, 5], [75, 10], [60, 10]]


# --- only written -----------------------------------------------------------------------------------------------------


def test_geojson_has_holes_and_svg_draws_the_mask(images, tmp_path):
    write_regions(images[:1], tmp_path / "geo", "geojson")
    write_regions(images[:1], tmp_path / "svg", "svg")

    content = json.loads((tmp_path / "geo/a photo.geojson").read_text())
    ring = content["features"][0]
    assert ring["geometry"]["type"] == "MultiPolygon" and ring["properties"]["label"] == "ring"
    assert sorted(len(polygon) for polygon in ring["geometry"]["coordinates"]) == [1, 2]
    assert all(polygon[0][0] == polygon[0][-1] for polygon in ring["geometry"]["coordinates"])
    drawn = (tmp_path / "svg/a photo.svg").read_text()
    assert drawn.count("<path") == 4 and 'fill-rule="evenodd"' in drawn and 'data-label="a dog/cat: 50%"' in drawn
    assert [path.name for path in (tmp_path / "svg").iterdir()] == ["a photo.svg"]


def test_coco_results_have_scores_and_name_image_and_text(photo, tmp_path):
    answer = RegionImage(photo, photo.name, (HEIGHT, WIDTH), (Region("the cat", encode(square()), (), 0.75),))

    write_regions([answer], tmp_path / "out", "coco_results")

    (entry,) = json.loads((tmp_path / "out/results.json").read_text())
    assert (entry["score"], entry["file_name"], entry["text"]) == (0.75, photo.name, "the cat")
    assert np.array_equal(
        decode({**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()}), square()
    )


def test_predictions_go_out_with_their_expressions_as_names(images, tmp_path, capsys):
    write_regions(images, tmp_path / "data/custom/mine.jsonl", "custom")
    items = evaluation_set("custom|mine", tmp_path / "data")
    lines = [
        {
            "split": "custom|mine",
            "image": items[number].path_below(tmp_path / "data"),
            "index": items[number].index,
            "expression": expression,
            "present": True,
            "mask": as_json(encode(square())),
        }
        for number in range(2)
        for expression in range(len(items[number].expressions))
    ]
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["convert", str(predictions), str(tmp_path / "out"), "--to", "labelme", "--split", "custom|mine"]

    assert main([*words, "--data", str(tmp_path / "data")]) == 0

    assert "2 images, 5 masks" in capsys.readouterr().out
    found = list(read_regions(tmp_path / "out"))
    assert {one.label for image in found for one in image.regions} >= {"What flies in the sky?"}
    assert all(np.array_equal(one.pixels, square()) for image in found for one in image.regions)
