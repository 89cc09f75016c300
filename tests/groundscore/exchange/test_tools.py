"""Own data from other tools and back: every form keeps its masks, and says what it cannot carry."""

import base64
import json
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from groundscore.commands import main
from groundscore.errors import UserError
from groundscore.exchange.regions import Region, RegionImage, ToolOptions, outlines, region
from groundscore.exchange.tools import READABLE, TOOLS, WRITABLE, read_regions, write_regions
from groundscore.rle import as_json, decode, encode
from groundscore.splits import evaluation_set

HEIGHT, WIDTH = 60, 80


def ring_shape() -> np.ndarray:
    """A disc with a hole, and a second part that touches it at a corner."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (30, 30), 20, 1, -1)
    cv2.circle(mask, (30, 30), 8, 0, -1)
    mask[5:10, 60:75] = 1
    return mask


def blob(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH))
    return (cv2.GaussianBlur(noise, (0, 0), 4) > 0.5).astype(np.uint8)


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:40, 10:50] = 1
    return mask


@pytest.fixture
def photo(tmp_path) -> Path:
    """A JPEG, whose bytes have to stay as they are."""
    path = tmp_path / "photos" / "a photo.jpg"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


@pytest.fixture
def images(photo) -> list[RegionImage]:
    """Two images: labels that several regions have, a label with odd characters, a region with texts."""
    other = photo.with_name("other.png")
    Image.new("RGB", (WIDTH, HEIGHT), "teal").save(other)
    size = (HEIGHT, WIDTH)
    regions = (
        region("ring", ring_shape()),
        region("cat", square()),
        region("cat", blob(1)),
        region("a dog/cat: 50%", blob(2)),
    )
    asked = region("kite", blob(3), ["What flies in the sky?", "red thing above"])
    return [RegionImage(photo, photo.name, size, regions), RegionImage(other, other.name, size, (asked,))]


def masks_of(image: RegionImage) -> dict[str, list[bytes]]:
    """The masks of an image by label, in no order."""
    found: dict[str, list[bytes]] = {}
    for one in image.regions:
        found.setdefault(one.label, []).append(one.mask["counts"])
    return {label: sorted(masks) for label, masks in found.items()}


def same_image(one: RegionImage, other: RegionImage) -> bool:
    return masks_of(one) == masks_of(other) and one.content == other.content


def by_name(images) -> dict[str, RegionImage]:
    return {Path(image.name).stem: image for image in images}


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


# --- files as the tools write them ------------------------------------------------------------------------------------


def write_json(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def shape(kind: str, points, label: str = "cat", **more) -> dict:
    return {
        "label": label,
        "points": points,
        "shape_type": kind,
        "group_id": None,
        "description": "",
        "flags": {},
        **more,
    }


def test_a_labelme_folder_with_groups_circles_and_an_image_inside(photo, tmp_path):
    folder = tmp_path / "labelme"
    corners = [[10, 20], [49, 20], [49, 39], [10, 39]]
    shapes = [
        shape("polygon", corners, group_id=1, description="the large one"),
        shape("rectangle", [[60, 5], [70, 10]], group_id=1),
        shape("circle", [[30, 50], [35, 50]], label="ball"),
        shape("polygon", corners[:3], label="flag"),
    ]
    data = base64.b64encode(photo.read_bytes()).decode()
    write_json(folder / "deep/one.json", {"shapes": shapes, "imagePath": "..\\one.jpg", "imageData": data})

    (image,) = read_regions(folder)

    expected = square()
    expected[5:11, 60:71] = 1
    assert image.content == photo.read_bytes() and image.name == "deep/one.jpg"
    assert [one.label for one in image.regions] == ["cat", "ball"]
    assert np.array_equal(image.regions[0].pixels, expected)
    assert image.regions[0].texts == ("the large one",)


def test_reason_seg_files_are_one_region_with_their_sentences(photo, tmp_path):
    record = {
        "text": ["What sits?", "the animal"],
        "is_sentence": True,
        "shapes": [shape("polygon", [[10, 20], [49, 20], [49, 39], [10, 39]])],
    }
    write_json(photo.with_suffix(".json"), record)

    (image,) = read_regions(photo.parent)

    assert image.regions[0].texts == ("What sits?", "the animal")
    assert np.array_equal(image.regions[0].pixels, square())


def coco(annotations: list[dict], name: str = "a photo.jpg", **image) -> dict:
    return {
        "images": [{"id": 7, "file_name": name, "height": HEIGHT, "width": WIDTH, **image}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, **one} for one in annotations],
    }


POLYGON = [[10, 20, 50, 20, 50, 40, 10, 40]]


def test_coco_of_cvat_and_of_label_studio_finds_its_images(photo, tmp_path):
    cvat = tmp_path / "cvat"
    (cvat / "images/default").mkdir(parents=True)
    (cvat / "images/default" / photo.name).write_bytes(photo.read_bytes())
    write_json(cvat / "annotations/instances_default.json", coco([{"segmentation": POLYGON, "caption": "the sleeper"}]))
    label_studio = tmp_path / "label_studio"
    (label_studio / "images").mkdir(parents=True)
    (label_studio / "images" / photo.name).write_bytes(photo.read_bytes())
    write_json(label_studio / "result.json", coco([{"segmentation": POLYGON}], name=f"../../label_studio/{photo.name}"))

    (first,), (second,) = read_regions(cvat), read_regions(label_studio)

    assert np.array_equal(first.regions[0].pixels, square()) and first.regions[0].texts == ("the sleeper",)
    assert np.array_equal(second.regions[0].pixels, square())


def brush(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's brush has it, with single values and with runs."""
    values = np.repeat(mask.ravel() * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{length - 1:04b}" for length in (3, 4, 8, 16))
    edges = np.flatnonzero(np.diff(values)) + 1
    for run in np.split(values, edges):
        if len(run) <= 8:
            bits += f"000{len(run) - 1:03b}" + "".join(f"{value:08b}" for value in run)
        else:
            for start in range(0, len(run), 1 << 16):
                bits += f"111{len(run[start : start + (1 << 16)]) - 1:016b}{run[0]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def test_label_studios_polygons_brushes_and_texts(photo, tmp_path):
    points = [[12.5, 100 / 3], [62.5, 100 / 3], [62.5, 200 / 3], [12.5, 200 / 3]]
    about = {"original_width": WIDTH, "original_height": HEIGHT}
    results = [
        {"id": "p", "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["cat"]}, **about},
        {
            "id": "b",
            "type": "brushlabels",
            "value": {"format": "rle", "rle": brush(ring_shape()), "brushlabels": ["ring"]},
            **about,
        },
        {"id": "b", "type": "textarea", "value": {"text": ["What is round?"]}},
        {"id": "c", "type": "choices", "value": {"choices": ["indoors"]}},
    ]
    task = {
        "data": {"image": "/data/local-files/?d=photos/a%20photo.jpg"},
        "annotations": [{"was_cancelled": True}, {"result": results}],
    }

    (image,) = read_regions(write_json(photo.parent / "export.json", [task]))

    assert [(one.label, one.texts) for one in image.regions] == [("cat", ()), ("ring", ("What is round?",))]
    assert np.array_equal(image.regions[0].pixels, square())
    assert np.array_equal(image.regions[1].pixels, ring_shape())


def test_cvats_xml_has_masks_row_by_row_and_polygons(photo, tmp_path):
    box = ring_shape()[10:51, 10:51]
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(np.concatenate([[0], box.ravel()]))), [box.size]]))
    content = f"""<annotations><image id="0" name="{photo.name}" width="{WIDTH}" height="{HEIGHT}"><tag label="x"/>
      <mask label="ring" rle="{", ".join(map(str, runs))}" left="10" top="10" width="41" height="41"/>
      <polygon label="cat" points="10,20;50,20;50,40;10,40"/></image></annotations>"""
    (photo.parent / "annotations.xml").write_text(content)

    (image,) = read_regions(photo.parent)

    expected = np.zeros_like(ring_shape())
    expected[10:51, 10:51] = box
    assert np.array_equal(image.regions[0].pixels, expected)
    assert np.array_equal(image.regions[1].pixels, square())


def png_of(mask: np.ndarray) -> bytes:
    out = BytesIO()
    Image.fromarray(mask * np.uint8(255)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("as_arrow", [False, True])
def test_tables_as_hugging_face_has_them(as_arrow, photo, tmp_path):
    image = {"bytes": photo.read_bytes(), "path": None}
    rows = [
        {"image": image, "text": text, "mask": mask.astype(bool).tolist(), "image_id": name}
        for text, mask, name in (("What is round?", ring_shape(), "im1"), ("the cat", square(), "im2"))
    ]
    table = pa.Table.from_pylist(rows)
    if as_arrow:
        with (
            pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table)
    else:
        pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")

    found = list(read_regions(tmp_path))

    assert [(image.name, image.regions[0].label) for image in found] == [
        ("im1.jpg", "What is round?"),
        ("im2.jpg", "the cat"),
    ]
    assert np.array_equal(found[0].regions[0].pixels, ring_shape())


def test_columns_of_other_names_are_named(photo, tmp_path):
    table = pa.Table.from_pylist([{"foto": photo.read_bytes(), "maske": png_of(square()), "wort": ["cat"]}])
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(
        UserError, match="no column that is known as image; name one with --columns image=NAME: foto, maske"
    ):
        list(read_regions(tmp_path / "a.parquet"))
    columns = {"image": "foto", "mask": "maske", "text": "wort"}
    (found,) = read_regions(tmp_path / "a.parquet", "", ToolOptions(columns=columns))

    assert np.array_equal(found.regions[0].pixels, square())


def test_masks_by_name_in_every_place(photo, tmp_path):
    masks = tmp_path / "masks"
    (masks / "a photo").mkdir(parents=True)
    for name, mask in (
        ("a photo.png", square()),
        ("a photo_black cat.png", blob(1)),
        ("a photo/ring.2.png", ring_shape()),
    ):
        (masks / name).write_bytes(png_of(mask))

    (image,) = read_regions(tmp_path, "png", ToolOptions(images=photo.parent, label="thing"))

    assert {one.label for one in image.regions} == {"thing", "black cat", "ring"}


# --- what cannot be carried -------------------------------------------------------------------------------------------

BAD = {
    "a box of COCO": ("coco", coco([{"segmentation": [], "bbox": [1, 2, 3, 4]}]), "1 has no segmentation, only"),
    "COCO of another size": ("coco", coco([{"segmentation": POLYGON}], height=99), "is about 99 × 80 pixels"),
    "COCO without its image": ("coco", coco([{"segmentation": POLYGON}], name="b.jpg"), "image b.jpg, which is not in"),
    "COCO outside": ("coco", coco([{"segmentation": [[99, 99, 199, 99, 199, 199]]}]), "encloses no pixel"),
    "a line of LabelMe": ("labelme", {"shapes": [shape("line", [[1, 2], [3, 4]])]}, "shape 0: .*has no area"),
    "LabelMe outside": ("labelme", {"shapes": [shape("polygon", [[99, 9], [199, 9], [199, 9]])]}, "has no pixel"),
    "a box of Label Studio": (
        "label_studio",
        [{"data": {"image": "a photo.jpg"}, "annotations": [{"result": [{"type": "rectanglelabels", "value": {}}]}]}],
        "result 0 is of type 'rectanglelabels', which has no mask",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_a_mask_cannot_carry_is_told_with_its_place(kind, photo):
    form, content, message = BAD[kind]
    path = write_json(photo.with_suffix(".json"), content)

    with pytest.raises(UserError, match=message) as caught:
        list(read_regions(path, form))

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1 0.1", "line 1 is a box"),
        ("9 0.1 0.1 0.5 0.1 0.5 0.5", "class 9 has no name"),
        ("0 1.5 0.1 0.5 0.1 0.5 0.5", "as fractions of the image"),
        ("0 a b", "has more than numbers"),
    ],
)
def test_lines_of_yolo_that_are_no_polygons(line, message, images, tmp_path):
    write_regions(images, tmp_path / "out", "yolo")
    (tmp_path / "out/labels/a photo.txt").write_text(line)

    with pytest.raises(UserError, match=message):
        list(read_regions(tmp_path / "out"))


def test_pixels_to_ignore_are_refused_where_there_is_no_place_for_them(images, tmp_path):
    ignoring = [RegionImage(image.image, image.name, image.size, image.regions, encode(blob(4))) for image in images]

    for form in ("yolo", "parquet"):
        with pytest.raises(UserError, match="has pixels to ignore.*write coco"):
            write_regions(ignoring, tmp_path / form, form)


def test_nothing_is_overwritten(images, tmp_path):
    write_regions(images, tmp_path / "data/custom/mine.jsonl", "custom")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")

    with pytest.raises(UserError, match="exists; choose another"):
        write_regions(images, tmp_path / "data/custom/mine.jsonl", "custom")
    with pytest.raises(UserError, match="is not empty"):
        write_regions(images, tmp_path / "full", "coco")


@pytest.mark.parametrize("form", ["custom", "coco"])
def test_what_fails_leaves_nothing_behind_and_can_be_repeated(form, images, tmp_path):
    out = tmp_path / "data/custom/mine.jsonl" if form == "custom" else tmp_path / "out"

    def broken():
        yield images[0]
        raise UserError("the second image is bad")

    with pytest.raises(UserError, match="the second image is bad"):
        write_regions(broken(), out, form)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "photos"]
    write_regions(images, out, form)


@pytest.mark.parametrize("form", ["coco", "yolo", "png", "labelme", "parquet", "custom"])
def test_an_image_that_exif_turns_is_written_upright_and_stays_as_it_is_in_own_data(form, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    Image.new("RGB", (HEIGHT, WIDTH), "red").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif)
    mask = np.zeros((WIDTH, HEIGHT), np.uint8)
    mask[:20, :30] = 1
    out = tmp_path / "data/custom/mine.jsonl" if form == "custom" else tmp_path / "out"

    write_regions([RegionImage(tmp_path / "a.jpg", "a.jpg", (WIDTH, HEIGHT), (region("top", mask),))], out, form)
    (found,) = read_regions(out)

    assert np.array_equal(found.regions[0].pixels, mask)
    with Image.open(BytesIO(found.content)) as image:
        assert image.getexif().get(0x0112, 1) == (6 if form == "custom" else 1)
        assert image.size == ((WIDTH, HEIGHT) if form == "custom" else (HEIGHT, WIDTH))


def test_a_folder_of_nothing_that_is_known_is_told(photo):
    with pytest.raises(UserError, match="looks like none of .*labelme"):
        read_regions(photo.parent)


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
